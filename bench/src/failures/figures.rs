//! What is told of each failure, for us and for each set-up of the peer.

use hearth_replay::{Figure, Goal};
use serde_json::json;

use super::{Case, Failure, Found, Ran, Tried};

/// One set-up of the peer and what it made of a case.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// What was set that is not so by default.
    pub(crate) settings: String,
    pub(crate) ran: Ran,
}

/// One thing that is told of a failure.
struct Measure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Found) -> Option<f64>,
    /// What ours is held to.
    goal: Option<Goal>,
}

const DAMAGED: Measure = keys("damaged on disk", |found| found.damaged.map(|count| count as f64));
/// What was on disk and whole, and is lost all the same.
const SPARED_LOST: Measure = keys("undamaged and lost all the same", |found| {
    Some(found.on_disk?.saturating_sub(found.damaged? + found.outcome.right) as f64)
});
const READABLE: Measure = keys("readable, with the right bytes", |found| Some(found.outcome.right as f64));
const LOST: Measure = keys("lost", |found| Some(found.outcome.lost as f64));
const CLAIMED: Measure =
    keys("said to exist at the end, not readable", |found| Some(found.outcome.claimed_at_end as f64));
const WRONG: Measure = keys("wrong bytes returned as success", |found| Some(found.outcome.wrong as f64));
const FALSE_EXISTENCE: Measure =
    seconds("until existence is answered truly", |found| Some(found.outcome.false_existence_s));
const READABLE_S: Measure = seconds("until what is left is read promptly", |found| found.outcome.readable_s);
const WRITABLE_S: Measure = seconds("until puts are prompt and found", |found| found.outcome.writable_s);
const COMMITTED_S: Measure = seconds("until metadata is committed again", |found| found.committed_s);
const SLOWEST_GET: Measure = seconds("slowest get meanwhile", |found| found.outcome.slowest_get_s);
const COPIES_LOST: Measure = copies("copies lost", |found| Some(found.outcome.copies_lost as f64));
const COPIES_REMADE: Measure = copies("copies made again", |found| Some(found.outcome.copies_remade as f64));
const REMADE_S: Measure = seconds("until there are as many copies as before", |found| found.outcome.remade_s);

/// None at all.
const NONE: Goal = Goal::AtMost(0.0);

/// The figures of one case: for each failure and measure, one beside each set-up of the peer.
pub(crate) fn figures(case: Case, ours: &Ran, peers: &[Peer]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for failure in case.failures() {
        for measure in measures(*failure) {
            for peer in peers {
                figures.push(figure(*failure, &measure, ours, peer));
            }
        }
    }
    figures
}

/// All that was found and how the peers were set up, as JSON.
pub(crate) fn detail(tried: &[Tried]) -> serde_json::Value {
    let told = |ran: &Ran| match ran {
        Ok(found) => json!(found.iter().map(|(failure, found)| (failure.name(), found)).collect::<Vec<_>>()),
        Err(why) => json!({ "absent": why }),
    };
    let of = |tried: &Tried| {
        let peers = tried
            .peers
            .iter()
            .map(|peer| json!({ "name": peer.name, "settings": peer.settings, "found": told(&peer.ran) }));
        json!({ "ours": told(&tried.ours), "peers": peers.collect::<Vec<_>>() })
    };
    json!({ "cases": tried.iter().map(of).collect::<Vec<_>>() })
}

fn figure(failure: Failure, measure: &Measure, ours: &Ran, peer: &Peer) -> Figure {
    let value = |ran: &Ran| {
        let found = ran.as_ref().ok()?.iter().find(|(of, _)| *of == failure)?;
        (measure.of)(&found.1)
    };
    let mut name = format!("{}: {}", failure.name(), measure.name);
    if let Err(why) = ours {
        name = format!("{name} (ours: {why})");
    }
    let figure = Figure::new(name, measure.unit, value(ours));
    let figure = match (&peer.ran, value(&peer.ran)) {
        (_, Some(theirs)) => figure.with_peer(&peer.name, theirs),
        (Ok(_), None) => Figure { peer_name: Some(format!("{}: never", peer.name)), ..figure },
        (Err(why), None) => figure.with_absent_peer(&peer.name, why),
    };
    match measure.goal {
        Some(goal) => figure.with_goal(goal),
        None => figure,
    }
}

fn measures(failure: Failure) -> Vec<Measure> {
    match failure {
        Failure::NodeKilledOneReplica => {
            vec![READABLE, LOST, FALSE_EXISTENCE, CLAIMED, READABLE_S, WRITABLE_S, SLOWEST_GET]
        }
        Failure::NodeKilledTwoReplicas => vec![
            READABLE,
            LOST.held_to(NONE),
            FALSE_EXISTENCE,
            READABLE_S,
            WRITABLE_S,
            SLOWEST_GET,
            COPIES_LOST,
            COPIES_REMADE,
            REMADE_S,
        ],
        Failure::LeaderKilled => {
            vec![
                READABLE,
                LOST.held_to(NONE),
                FALSE_EXISTENCE,
                READABLE_S,
                WRITABLE_S,
                COMMITTED_S,
                SLOWEST_GET,
            ]
        }
        Failure::Restarted => {
            vec![READABLE, LOST.held_to(NONE), FALSE_EXISTENCE, CLAIMED, READABLE_S, WRITABLE_S]
        }
        Failure::BytesFlipped => {
            vec![DAMAGED, WRONG.held_to(NONE), SPARED_LOST.held_to(NONE), READABLE, FALSE_EXISTENCE, CLAIMED]
        }
    }
}

type Of = fn(&Found) -> Option<f64>;

const fn keys(name: &'static str, of: Of) -> Measure {
    Measure { name, unit: "keys", of, goal: None }
}

const fn copies(name: &'static str, of: Of) -> Measure {
    Measure { name, unit: "copies", of, goal: None }
}

const fn seconds(name: &'static str, of: Of) -> Measure {
    Measure { name, unit: "s", of, goal: None }
}

impl Measure {
    const fn held_to(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::timeline::Outcome;

    const CASE: Case = Case::NodeKilled { replicas: 2 };

    fn ran(outcome: Outcome) -> Ran {
        Ok(vec![(Failure::NodeKilledTwoReplicas, Found { outcome, ..Found::default() })])
    }

    fn peer(ran: Ran) -> Peer {
        Peer { name: "peer".to_owned(), settings: String::new(), ran }
    }

    fn named<'a>(figures: &'a [Figure], name: &str) -> &'a Figure {
        let found = figures.iter().find(|figure| figure.name.contains(name));
        found.unwrap_or_else(|| panic!("no {name} in {figures:?}"))
    }

    #[test]
    fn what_never_came_about_is_said_and_not_given_a_number() {
        let ours = ran(Outcome { remade_s: Some(4.0), ..Outcome::default() });
        let figures = figures(CASE, &ours, &[peer(ran(Outcome::default()))]);
        let figure = named(&figures, "as many copies");
        assert_eq!((figure.ours, figure.peer), (Some(4.0), None));
        assert_eq!(figure.peer_name.as_deref(), Some("peer: never"));
    }

    #[test]
    fn what_we_do_not_offer_is_said_beside_the_peers_value_and_meets_no_goal() {
        let theirs = peer(ran(Outcome { lost: 3, ..Outcome::default() }));
        let figures = figures(CASE, &Err("not offered".to_owned()), &[theirs]);
        let figure = named(&figures, ": lost");
        assert!(figure.name.ends_with("(ours: not offered)"));
        assert_eq!((figure.ours, figure.peer, figure.met), (None, Some(3.0), None));
    }

    #[test]
    fn an_absent_peer_is_in_every_figure_and_keys_that_we_lose_miss_the_goal() {
        let ours = ran(Outcome { lost: 1, ..Outcome::default() });
        let figures = figures(CASE, &ours, &[peer(Err("no network".to_owned()))]);
        let absent = |figure: &Figure| figure.peer_name.as_deref() == Some("peer (absent: no network)");
        assert!(figures.iter().all(absent));
        assert_eq!(named(&figures, ": lost").met, Some(false));
    }

    #[test]
    fn keys_whose_bytes_were_spared_are_lost_if_they_are_not_readable() {
        let outcome = Outcome { right: 40, lost: 60, ..Outcome::default() };
        let found = Found { outcome, on_disk: Some(90), damaged: Some(45), committed_s: None };
        assert_eq!((SPARED_LOST.of)(&found), Some(5.0), "ten were not on disk at all");
        assert_eq!((SPARED_LOST.of)(&Found { damaged: None, ..found }), None);
    }

    #[test]
    fn every_failure_of_every_case_is_told_of_for_every_peer() {
        for case in Case::ALL {
            let found = case.failures().iter().map(|failure| (*failure, Found::default())).collect();
            let peers = [peer(Err("absent".to_owned())), peer(Ok(Vec::new()))];
            let figures = figures(case, &Ok(found), &peers);
            for failure in case.failures() {
                let of = figures.iter().filter(|figure| figure.name.starts_with(failure.name())).count();
                assert!(of >= 2 * measures(*failure).len(), "{failure:?}");
            }
        }
    }
}
