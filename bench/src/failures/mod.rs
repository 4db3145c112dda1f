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

use clap::Args;
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
    /// Keys that were on disk when everything ended, as far as that was looked at.
    on_disk: Option<usize>,
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
    /// How long after the leader was.
    leader_watch: Duration,
    /// How long after it was started again.
    restart_watch: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct FailuresArgs {
    /// Keys that are stored before each failure; 300 with --quick.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=4_000))]
    keys: u32,
    /// Size of each.
    #[arg(long, default_value = "128KiB", value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    block_bytes: u64,
    #[command(flatten)]
    report: ReportArgs,
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
        if args.report.quick && !case.is_quick() {
            continue;
        }
        tried.push(try_case(&plan, case, &environment, args.report.quick).await?);
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

    fn is_quick(self) -> bool {
        self.replicas() == 1
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
            kill_watch: Duration::from_secs(if quick { 12 } else { 16 }),
            leader_watch: Duration::from_secs(if quick { 6 } else { 16 }),
            restart_watch: Duration::from_secs(if quick { 5 } else { 12 }),
        })
    }

    /// The command that shows it again.
    fn command(&self) -> String {
        let quick = if self.report.quick { " --quick" } else { "" };
        format!("hearth-bench failures --keys {} --block-bytes {}{quick}", self.keys, self.block_bytes)
    }
}
