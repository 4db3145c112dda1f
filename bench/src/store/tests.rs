use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    store: StoreArgs,
}

fn parse(arguments: &[&str]) -> Result<StoreArgs, clap::Error> {
    Cli::try_parse_from([&["store"], arguments].concat()).map(|cli| cli.store)
}

fn turn(bytes: u64, millis: u64, cpu_millis: u64) -> Turn {
    Turn { bytes, elapsed: Duration::from_millis(millis), cpu: Duration::from_millis(cpu_millis) }
}

fn cell(direction: Direction, ours: Vec<Turn>, fio: Vec<Turn>) -> Cell {
    Cell {
        direction,
        block_bytes: 65_536,
        record_bytes: 69_632,
        depth: 8,
        ours,
        fio,
        fio_verified: Vec::new(),
    }
}

#[test]
fn parts_are_chosen_by_name_and_all_without_one() {
    let all = parse(&[]).unwrap();
    assert!([Part::Device, Part::Host, Part::Foyer, Part::Index].iter().all(|part| all.has(*part)));
    let some = parse(&["host", "index", "--quick"]).unwrap();
    assert!(
        some.has(Part::Host) && some.has(Part::Index) && !some.has(Part::Device) && !some.has(Part::Foyer)
    );
    assert_eq!(some.command(), "hearth-bench store host index --quick");
    let polled = parse(&["device", "--driver", "io-uring", "--sqpoll"]).unwrap();
    assert_eq!(polled.command(), "hearth-bench store device --driver io-uring --sqpoll");
    let driver = polled.device_plan(Path::new("/nowhere")).unwrap().driver;
    assert_eq!(driver, DriverOptions { driver: Driver::IoUring, sqpoll: true, iopoll: false });
    for bad in [&["disk"][..], &["--rounds", "0"], &["--size", "much"], &["--block-bytes", "x"]] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_disk_in_use_stays_within_what_was_allowed() {
    let dir = Path::new("/nowhere");
    for arguments in [&["--size", "4GiB"][..], &["--size", "2GiB"], &["--quick"]] {
        let args = parse(arguments).unwrap();
        assert!(2 * args.device_plan(dir).unwrap().file_bytes <= args.size());
        assert!(args.versus_plan(dir).disk_bytes <= args.size());
        assert!(args.index_count() * 4_096 <= args.size());
    }
    assert_eq!(parse(&["--size", "8GiB"]).unwrap().index_count(), 1_000_000);
}

#[test]
fn a_cell_is_held_to_the_median_of_its_pairs() {
    let ours = vec![turn(1_000, 1_000, 10), turn(100, 1_000, 20), turn(1_900, 1_000, 30)];
    let fio = vec![turn(1_000, 1_000, 10), turn(1_000, 1_000, 10), turn(1_000, 1_000, 10)];
    let found = Ok(Fio { version: "fio-3".into() });
    let figures = cell_figures(&cell(Direction::Get, ours, fio), &found);
    let [speed, processor] = figures.as_slice() else { panic!("{figures:?}") };
    assert_eq!((speed.name.as_str(), speed.peer_name.as_deref()), ("get, 64 KiB, depth 8", Some("fio-3")));
    assert_eq!((speed.ratio, speed.met), (Some(1.0), Some(true)));
    assert_eq!((processor.unit.as_str(), processor.goal), ("s per GB", None));
    assert!(processor.ratio > Some(1.0));
}

#[test]
fn gets_stand_beside_reads_that_compare_checksums_too() {
    let verified = vec![turn(500, 1_000, 1)];
    let cell = Cell {
        fio_verified: verified,
        ..cell(Direction::Get, vec![turn(600, 1_000, 1)], vec![turn(1_000, 1_000, 1)])
    };
    let figures = cell_figures(&cell, &Ok(Fio { version: "fio-3".into() }));
    let verified = figures.last().unwrap();
    assert_eq!(verified.name, "get, 64 KiB, depth 8, verified");
    assert_eq!(verified.peer_name.as_deref(), Some("fio-3 comparing crc32c"));
    assert!((verified.ratio.unwrap() - 1.2).abs() < 1e-9 && verified.goal.is_none());
}

#[test]
fn puts_have_a_goal_of_their_own() {
    let held = |ours| {
        let cell = cell(Direction::Put, vec![turn(ours, 1_000, 1)], vec![turn(1_000, 1_000, 1)]);
        cell_figures(&cell, &Ok(Fio { version: String::new() }))[0].met
    };
    assert_eq!([held(900), held(899)], [Some(true), Some(false)]);
}

#[test]
fn the_fastest_turn_is_that_of_any_depth_of_one_size_and_direction() {
    let turns = |rates: &[u64]| rates.iter().map(|rate| turn(rate * 1_000_000_000, 1_000, 1)).collect();
    let cells = [
        cell(Direction::Get, turns(&[1, 2]), turns(&[4, 3])),
        cell(Direction::Get, turns(&[3, 1]), turns(&[2, 2])),
        cell(Direction::Put, turns(&[9]), turns(&[8])),
    ];
    let figures = fastest(&cells, &Ok(Fio { version: "fio-3".into() }));
    let values: Vec<_> = figures.iter().map(|figure| (figure.ours, figure.peer, figure.goal)).collect();
    assert_eq!(values, [(Some(3.0), Some(4.0), None), (Some(9.0), Some(8.0), None)]);
    assert_eq!(figures[0].name, "get, 64 KiB, fastest turn");
}

#[test]
fn without_fio_the_figures_say_so_and_decide_nothing() {
    let absent = Err("fio is not installed".to_owned());
    let figures = cell_figures(&cell(Direction::Get, vec![turn(1, 1, 1)], vec![]), &absent);
    let [speed, processor] = figures.as_slice() else { panic!("{figures:?}") };
    assert_eq!(speed.peer_name.as_deref(), Some("fio (absent: fio is not installed)"));
    assert!(speed.ours.is_some() && speed.met.is_none() && processor.peer.is_none());
}

#[test]
fn the_detail_has_every_turn() {
    let cell = cell(Direction::Get, vec![turn(2_000_000_000, 1_000, 500)], vec![]);
    let detail = detail(&[cell]);
    assert_eq!(detail["turns"][0]["ours_gb_per_s_and_cpu_s_per_gb"][0], serde_json::json!([2.0, 0.25]));
    assert_eq!(detail["turns"][0]["fio_block_bytes"], 69_632);
}
