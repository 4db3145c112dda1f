//! What a failure costs: a node or the leader killed, everything restarted, bytes flipped on disk; Hearth and
//! Mooncake in the same run, watched by the same probes, and the same arithmetic applied to what they saw.
//!
//! Each case has a cluster of its own, of three storage nodes. What is measured is counts and seconds, which
//! a shared machine does not change; with --quick both systems are tried at the same time.

mod figures;
mod hearth;
mod mooncake;
mod payload;
mod probes;
mod timeline;

use std::time::Duration;

use clap::{Args, ValueEnum};
use hearth_replay::BenchReport;
use serde::Serialize;

use self::figures::{Peer, figures};
use self::mooncake::{Backend, Environment, Flavour};
use self::timeline::{Key, Outcome};
use crate::ReportArgs;

/// What is tried, each in a cluster of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// A storage node ends with kill -9 and stays away.
    NodeKilled { replicas: u32 },
    /// Whoever orders the metadata ends with kill -9; started again if the system needs that.
    LeaderKilled,
    /// Every process ends with kill -9 and starts again; then once more, with the disk damaged meanwhile.
    AllRestarted,
}

/// What figures are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Failure {
    NodeKilledOneReplica,
    NodeKilledTwoReplicas,
    LeaderKilled,
    Restarted,
    BytesFlipped,
}

/// What one system made of one failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Found {
    #[serde(flatten)]
    outcome: Outcome,
    /// Keys that were on disk when everything ended, where that was looked at.
    on_disk: Option<usize>,
    /// Keys of which a byte was flipped there.
    damaged: Option<usize>,
    /// When a change of the metadata was committed again, where that was looked at.
    committed_s: Option<f64>,
}

/// What a system made of the failures of a case; the error says why it offers nothing of the kind.
pub(crate) type Ran = Result<Vec<(Failure, Found)>, String>;

/// How much, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    keys: Key,
    block_bytes: usize,
    /// How long a system is watched after a node was killed.
    kill_watch: Duration,
    /// How long if it has replicas to make again.
    repair_watch: Duration,
    /// How long after the leader was.
    leader_watch: Duration,
    /// How long after it was started again.
    restart_watch: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct FailuresArgs {
    /// Only these [default: all].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Keys that are stored before each failure; 300 with --quick.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=4_000))]
    keys: u32,
    /// Size of each.
    #[arg(long, default_value = "128KiB", value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    block_bytes: u64,
    #[command(flatten)]
    report: ReportArgs,
}

/// Cases as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A storage node is killed, with one and with two replicas.
    Node,
    /// The leader, or the master, is killed.
    Leader,
    /// Everything is restarted, then once more with a damaged disk.
    Disk,
}

/// One case, everybody.
struct Tried {
    case: Case,
    ours: Ran,
    peers: Vec<Peer>,
}

/// Measures. True when no answer of ours was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: FailuresArgs) -> anyhow::Result<bool> {
    let plan = args.plan()?;
    let environment = Environment::open().await;
    if let Err(why) = &environment {
        eprintln!("failures: Mooncake is absent: {why}");
    }
    let mut tried = Vec::new();
    for case in Case::ALL {
        if args.tries(case) {
            tried.push(try_case(&plan, case, &environment, args.report.quick).await?);
        }
    }
    let figures = tried.iter().flat_map(|tried| figures(tried.case, &tried.ours, &tried.peers)).collect();
    let ours = tried.iter().filter_map(|tried| tried.ours.as_ref().ok()).flatten();
    let wrong = ours.map(|(_, found)| found.outcome.wrong as u64).sum();
    let mut report = BenchReport::new(args.command(), figures, wrong);
    report.detail = Some(figures::detail(&tried));
    args.report.publish(&report)?;
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

/// Ours and theirs in turns, or at once when it is to be quick.
async fn try_case(
    plan: &Plan,
    case: Case,
    environment: &Result<Environment, String>,
    quick: bool,
) -> anyhow::Result<Tried> {
    let ours = async {
        let ours = hearth::run(plan, case).await?;
        tell("Hearth", case, &ours);
        anyhow::Ok(ours)
    };
    let theirs = async {
        let mut peers = Vec::new();
        for flavour in case.flavours(quick) {
            let ran = match environment {
                Ok(environment) => {
                    let ran = mooncake::run(environment, flavour, plan, case).await;
                    ran.map_err(|error| format!("{error:#}"))
                }
                Err(why) => Err(why.clone()),
            };
            tell(&flavour.name(), case, &ran);
            peers.push(Peer { name: flavour.name(), settings: flavour.settings(), ran });
        }
        peers
    };
    let (ours, peers) = if quick {
        let (ours, peers) = tokio::join!(ours, theirs);
        (ours?, peers)
    } else {
        (ours.await?, theirs.await)
    };
    Ok(Tried { case, ours, peers })
}

fn tell(who: &str, case: Case, ran: &Ran) {
    match ran {
        Ok(found) => {
            for (failure, found) in found {
                eprintln!("failures: {who}: {}: {found:?}", failure.name());
            }
        }
        Err(why) => eprintln!("failures: {who}: {}: {why}", case.failures()[0].name()),
    }
}

impl Case {
    const ALL: [Self; 4] = [
        Self::NodeKilled { replicas: 1 },
        Self::NodeKilled { replicas: 2 },
        Self::LeaderKilled,
        Self::AllRestarted,
    ];

    /// Copies that are asked for.
    fn replicas(self) -> u32 {
        if let Self::NodeKilled { replicas } = self { replicas } else { 1 }
    }

    /// What is seen in it, in this order.
    fn failures(self) -> &'static [Failure] {
        match self {
            Self::NodeKilled { replicas: 0 | 1 } => &[Failure::NodeKilledOneReplica],
            Self::NodeKilled { .. } => &[Failure::NodeKilledTwoReplicas],
            Self::LeaderKilled => &[Failure::LeaderKilled],
            Self::AllRestarted => &[Failure::Restarted, Failure::BytesFlipped],
        }
    }

    fn part(self) -> Part {
        match self {
            Self::NodeKilled { .. } => Part::Node,
            Self::LeaderKilled => Part::Leader,
            Self::AllRestarted => Part::Disk,
        }
    }

    /// The set-ups of the peer that are tried.
    fn flavours(self, quick: bool) -> Vec<Flavour> {
        let with = |etcd, disk| Flavour { etcd, disk };
        let mut flavours = match self {
            Self::NodeKilled { .. } | Self::LeaderKilled => vec![with(false, None), with(true, None)],
            Self::AllRestarted => vec![
                with(false, Some(Backend::Buckets)),
                with(false, Some(Backend::OneFile)),
                with(true, Some(Backend::Buckets)),
            ],
        };
        if quick {
            flavours.truncate(1);
        }
        flavours
    }
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::NodeKilledOneReplica => "node killed, 1 replica",
            Self::NodeKilledTwoReplicas => "node killed, 2 replicas",
            Self::LeaderKilled => "leader killed",
            Self::Restarted => "all restarted",
            Self::BytesFlipped => "bytes flipped on disk",
        }
    }

    fn flips(self) -> bool {
        self == Self::BytesFlipped
    }
}

impl Found {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, ..Self::default() }
    }
}

impl Plan {
    fn node_watch(&self, replicas: u32) -> Duration {
        if replicas > 1 { self.repair_watch } else { self.kill_watch }
    }

    /// Of all keys, once.
    fn bytes(&self) -> u64 {
        u64::from(self.keys) * self.block_bytes as u64
    }
}

impl FailuresArgs {
    fn plan(&self) -> anyhow::Result<Plan> {
        let quick = self.report.quick;
        Ok(Plan {
            keys: if quick { self.keys.min(300) } else { self.keys },
            block_bytes: usize::try_from(self.block_bytes)?,
            kill_watch: Duration::from_secs(if quick { 12 } else { 14 }),
            repair_watch: Duration::from_secs(22),
            leader_watch: Duration::from_secs(if quick { 6 } else { 14 }),
            restart_watch: Duration::from_secs(if quick { 5 } else { 8 }),
        })
    }

    fn tries(&self, case: Case) -> bool {
        let asked = self.parts.is_empty() || self.parts.contains(&case.part());
        asked && (!self.report.quick || case.replicas() == 1)
    }

    /// The command that shows it again.
    fn command(&self) -> String {
        let parts = self.parts.iter().filter_map(ValueEnum::to_possible_value);
        let parts: String = parts.map(|part| format!(" {}", part.get_name())).collect();
        let quick = if self.report.quick { " --quick" } else { "" };
        let (keys, block_bytes) = (self.keys, self.block_bytes);
        format!("hearth-bench failures{parts} --keys {keys} --block-bytes {block_bytes}{quick}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        failures: FailuresArgs,
    }

    fn parse(arguments: &[&str]) -> Result<FailuresArgs, clap::Error> {
        Cli::try_parse_from([&["failures"], arguments].concat()).map(|cli| cli.failures)
    }

    #[test]
    fn cases_are_chosen_by_part_and_all_without_one() {
        let tried = |arguments: &[&str]| {
            let args = parse(arguments).unwrap();
            Case::ALL.map(|case| args.tries(case))
        };
        assert_eq!(tried(&[]), [true; 4]);
        assert_eq!(tried(&["--quick"]), [true, false, true, true]);
        assert_eq!(tried(&["node"]), [true, true, false, false]);
        assert_eq!(tried(&["leader", "disk", "--quick"]), [false, false, true, true]);
        assert!(parse(&["--keys", "10"]).is_err() && parse(&["roof"]).is_err());
    }

    #[test]
    fn the_command_of_the_report_can_be_given_again() {
        let args = parse(&["disk", "--block-bytes", "64KiB", "--quick"]).unwrap();
        assert_eq!(args.command(), "hearth-bench failures disk --keys 900 --block-bytes 65536 --quick");
        let words = args.command();
        let again = parse(&words.split(' ').skip(2).collect::<Vec<_>>()).unwrap();
        assert_eq!(again.command(), args.command());
    }

    #[test]
    fn quick_tries_the_peer_as_it_comes_and_everything_tries_each_set_up() {
        for case in Case::ALL {
            assert_eq!(case.flavours(true).len(), 1);
            assert!(case.flavours(false).iter().any(|flavour| flavour.etcd));
            assert!(!case.flavours(true)[0].etcd);
        }
        assert!(Case::AllRestarted.flavours(false).iter().all(|flavour| flavour.disk.is_some()));
    }
}
