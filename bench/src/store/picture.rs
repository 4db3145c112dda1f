//! Draws what the device part measured: speed over depth, a panel for each block size.

use hearth_replay::Machine;
use hearth_replay::plot::{self, Curve, Panel, Scale};

use super::cost::Turn;
use super::device::{Cell, Direction, size};

/// The cells as one SVG picture.
pub(crate) fn render(cells: &[Cell], machine: &Machine) -> String {
    let mut sizes: Vec<usize> = cells.iter().map(|cell| cell.block_bytes).collect();
    sizes.dedup();
    let panels: Vec<Panel> = sizes.iter().map(|bytes| panel(cells, *bytes)).collect();
    let lines = [
        format!("{} cores of {}, {}", machine.cores, machine.cpu, machine.kernel),
        "Payload of gets from NVMe and of durable puts; fio: all bytes, O_DIRECT, io_uring, same disk, \
         same turns"
            .to_owned(),
    ];
    plot::page("One node's NVMe tier beside fio", &lines, &panels)
}

fn panel(cells: &[Cell], bytes: usize) -> Panel {
    let here: Vec<&Cell> = cells.iter().filter(|cell| cell.block_bytes == bytes).collect();
    let course = |direction: Direction, turns: fn(&Cell) -> &[Turn]| -> Vec<(f64, f64)> {
        let cells = here.iter().filter(|cell| cell.direction == direction);
        cells.filter_map(|cell| Some((cell.depth as f64, median(turns(cell))?))).collect()
    };
    let ours: fn(&Cell) -> &[Turn] = |cell| &cell.ours;
    let fio: fn(&Cell) -> &[Turn] = |cell| &cell.fio;
    let verified: fn(&Cell) -> &[Turn] = |cell| &cell.fio_verified;
    let curve =
        |name: &'static str, colour, dashed, points| Curve { name: name.into(), colour, dashed, points };
    let curves = vec![
        curve("get", plot::BLUE, false, course(Direction::Get, ours)),
        curve("fio read", plot::BLUE, true, course(Direction::Get, fio)),
        curve("fio read, verified", plot::GREEN, true, course(Direction::Get, verified)),
        curve("durable put", plot::VERMILION, false, course(Direction::Put, ours)),
        curve("fio write", plot::VERMILION, true, course(Direction::Put, fio)),
    ];
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let fastest = points().map(|point| point.1).fold(0.0, f64::max);
    let deepest = points().map(|point| point.0).fold(1.0, f64::max);
    Panel {
        title: format!("Blocks of {}", size(bytes)).into(),
        x_label: "transfers in flight".into(),
        y_label: "GB/s".into(),
        x: Scale::doublings(1.0, deepest),
        y: Scale::linear(0.0, fastest),
        curves: curves.into_iter().filter(|curve| !curve.points.is_empty()).collect(),
    }
}

fn median(turns: &[Turn]) -> Option<f64> {
    let mut rates: Vec<f64> = turns.iter().map(Turn::gb_per_s).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_block_size_has_a_panel_and_every_side_a_curve() {
        let turn = Turn { bytes: 1 << 30, elapsed: Duration::from_secs(1), cpu: Duration::ZERO };
        let cell = |direction, block_bytes, depth, fio| Cell {
            direction,
            block_bytes,
            record_bytes: 0,
            depth,
            ours: vec![turn; 3],
            fio: vec![turn; fio],
            fio_verified: vec![turn; if direction == Direction::Get { fio } else { 0 }],
        };
        let mut cells = Vec::new();
        for bytes in [64 << 10, 1 << 20] {
            for direction in [Direction::Get, Direction::Put] {
                cells.extend([1, 8, 32].map(|depth| cell(direction, bytes, depth, 3)));
            }
        }
        let svg = render(&cells, &Machine::detect());
        for text in
            ["Blocks of 64 KiB", "Blocks of 1 MiB", "fio read", "fio read, verified", "durable put", ">32<"]
        {
            assert!(svg.contains(text), "{text} is not in the picture");
        }
        let alone = render(&[cell(Direction::Get, 1 << 20, 4, 0)], &Machine::detect());
        assert!(alone.contains(">get<") && !alone.contains(">fio read<"));
    }
}
