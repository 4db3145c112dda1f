//! What goes wrong, and when: drawn from the seed as the history goes on.

use turmoil::Sim;

use crate::machine::Machine;
use crate::rng::Rng;
use crate::world::World;

/// One fault that is in effect, until when, and how it ends.
#[derive(Debug)]
enum Fault {
    /// The machine is down.
    Down(usize),
    /// Nothing passes between the machine and others.
    Cut(usize, Vec<usize>),
    /// Nothing passes from the machine to others, but from them to it.
    Mute(usize, Vec<usize>),
    /// What is sent between the machine and others is delivered when this ends.
    Held(usize, Vec<usize>),
}

/// The faults of one history.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<(u64, Fault)>,
    first_ms: u64,
    next_ms: u64,
    /// Leaderships that there were.
    leaderships: u64,
    pub(crate) counts: Counts,
}

/// How often what happened.
#[derive(Debug, Default, Clone, Copy, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) crashes: u64,
    pub(crate) writes_lost: u64,
    pub(crate) cuts: u64,
    pub(crate) mutes: u64,
    pub(crate) holds: u64,
    pub(crate) clock_jumps: u64,
}

impl Faults {
    pub(crate) fn new(first_ms: u64) -> Self {
        Self { first_ms, next_ms: first_ms, ..Self::default() }
    }

    /// Begins and ends what is due. So many leaderships were seen by now.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, world: &World, leaderships: u64) {
        let now = world.now_ms();
        if leaderships > self.leaderships {
            self.leaderships = leaderships;
            let mut rng = world.rng().clone();
            if now >= self.first_ms && rng.chance(25) {
                self.strike_voters(sim, world, &mut rng);
            }
            *world.rng() = rng;
        }
        while let Some(at) = self.active.iter().position(|(until, _)| *until <= now) {
            let (_, fault) = self.active.remove(at);
            end(sim, world, &fault);
        }
        if now >= self.next_ms {
            let mut rng = world.rng().clone();
            self.begin(sim, world, &mut rng);
            self.next_ms = now + rng.between(150, 1_500);
            *world.rng() = rng;
        }
    }

    /// Ends everything.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, world: &World) {
        for (_, fault) in self.active.drain(..) {
            end(sim, world, &fault);
        }
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World, rng: &mut Rng) {
        let machine = self.victim(world, rng);
        let until = world.now_ms() + rng.between(100, 3_500);
        let name = &world.machines[machine].name;
        match rng.below(10) {
            0..4 if self.is_down(machine) => {}
            0..4 => {
                self.crash(sim, world, rng, machine);
                self.active.push((until, Fault::Down(machine)));
                // Now and then the power fails for several at once, all of them included.
                for other in 0..world.machines.len() {
                    if !self.is_down(other) && rng.chance(15) {
                        self.crash(sim, world, rng, other);
                        self.active.push((until, Fault::Down(other)));
                    }
                }
            }
            4..6 => {
                let others = self.others(world, rng, machine);
                others.iter().for_each(|other| sim.partition(&**name, &*world.machines[*other].name));
                world.note(&format!("{name} is cut off from {others:?}"));
                self.counts.cuts += 1;
                self.active.push((until, Fault::Cut(machine, others)));
            }
            6 => {
                let others = self.others(world, rng, machine);
                others.iter().for_each(|other| sim.partition_oneway(&**name, &*world.machines[*other].name));
                world.note(&format!("{name} is mute towards {others:?}"));
                self.counts.mutes += 1;
                self.active.push((until, Fault::Mute(machine, others)));
            }
            7..9 => {
                let others = self.others(world, rng, machine);
                others.iter().for_each(|other| sim.hold(&**name, &*world.machines[*other].name));
                world.note(&format!("messages between {name} and {others:?} are held"));
                self.counts.holds += 1;
                self.active.push((until, Fault::Held(machine, others)));
            }
            _ => {
                let ahead = rng.below(20_000);
                world.note(&format!("the clock of {name} is {ahead} ms ahead"));
                self.counts.clock_jumps += 1;
                world.machines[machine].set_clock_ahead(ahead);
            }
        }
    }

    /// The power fails for those who have just voted for somebody, before anything else made them sync.
    fn strike_voters(&mut self, sim: &mut Sim<'_>, world: &World, rng: &mut Rng) {
        let until = world.now_ms() + rng.between(100, 2_000);
        for machine in 0..world.machines.len() {
            if !leads(&world.machines[machine]) && !self.is_down(machine) && rng.chance(70) {
                self.crash(sim, world, rng, machine);
                self.active.push((until, Fault::Down(machine)));
            }
        }
    }

    /// Any machine, and rather one that leads.
    fn victim(&self, world: &World, rng: &mut Rng) -> usize {
        let leaders: Vec<usize> =
            world.machines.iter().filter(|machine| leads(machine)).map(|machine| machine.index).collect();
        if leaders.is_empty() || rng.chance(50) {
            return rng.index(world.machines.len());
        }
        leaders[rng.index(leaders.len())]
    }

    fn crash(&mut self, sim: &mut Sim<'_>, world: &World, rng: &mut Rng, machine: usize) {
        let struck = &world.machines[machine];
        sim.crash(&*struck.name);
        let lost = struck.crash(|unsynced| rng.index(unsynced + 1));
        world.note(&format!("{} crashes and loses {lost} writes", struck.name));
        self.counts.crashes += 1;
        self.counts.writes_lost += lost as u64;
    }

    /// All others, or one of them.
    fn others(&self, world: &World, rng: &mut Rng, machine: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..world.machines.len()).filter(|other| *other != machine).collect();
        if rng.chance(30) {
            others = vec![others[rng.index(others.len())]];
        }
        others.retain(|other| !self.is_link_struck(machine, *other));
        others
    }

    fn is_down(&self, machine: usize) -> bool {
        self.active.iter().any(|(_, fault)| matches!(fault, Fault::Down(struck) if *struck == machine))
    }

    /// Two faults on one link would end each other.
    fn is_link_struck(&self, a: usize, b: usize) -> bool {
        self.active.iter().any(|(_, fault)| match fault {
            Fault::Down(_) => false,
            Fault::Cut(one, others) | Fault::Mute(one, others) | Fault::Held(one, others) => {
                (*one == a && others.contains(&b)) || (*one == b && others.contains(&a))
            }
        })
    }
}

fn leads(machine: &Machine) -> bool {
    let groups = machine.cluster().map(|cluster| cluster.observe()).unwrap_or_default();
    groups.iter().any(|group| group.leads.is_some())
}

fn end(sim: &mut Sim<'_>, world: &World, fault: &Fault) {
    let name = |machine: usize| &*world.machines[machine].name;
    match fault {
        Fault::Down(machine) => {
            world.note(&format!("{} starts again", name(*machine)));
            sim.bounce(name(*machine));
        }
        Fault::Cut(machine, others) => {
            world.note(&format!("{} is back", name(*machine)));
            others.iter().for_each(|other| sim.repair(name(*machine), name(*other)));
        }
        Fault::Mute(machine, others) => {
            world.note(&format!("{} is heard again", name(*machine)));
            others.iter().for_each(|other| sim.repair_oneway(name(*machine), name(*other)));
        }
        Fault::Held(machine, others) => {
            world.note(&format!("held messages of {} are delivered", name(*machine)));
            others.iter().for_each(|other| sim.release(name(*machine), name(*other)));
        }
    }
}
