//! Hit rate over the size of the cache, one panel for each trace.

use hearth_replay::plot::{BLUE, Curve, GREEN, GREY, ORANGE, PURPLE, Panel, Scale, VERMILION, page};

use super::{BELADY, Found, LRU, OURS, OURS_CLASSES, OURS_ENDS, SIZES_PERCENT};

pub(super) fn render(found: &[Found]) -> String {
    let panels: Vec<Panel> = found.iter().map(panel).collect();
    let lines = ["Share of blocks found with all before them in their chain.".to_owned(), String::new()];
    page("Eviction policies", &lines, &panels)
}

fn panel(found: &Found) -> Panel {
    let lowest = found.rows.iter().flat_map(|row| &row.1).fold(found.bound, |low, rate| low.min(*rate));
    let floor = (lowest / 10.0).floor() * 10.0;
    let ceiling = (found.bound / 10.0).ceil() * 10.0;
    Panel {
        title: found.name.clone().into(),
        x_label: "size of the cache, % of the different blocks".into(),
        y_label: "hit rate, %".into(),
        x: Scale::linear(0.0, 40.0),
        y: Scale::linear_exact(floor, ceiling),
        curves: found.rows.iter().map(|row| curve(row.0, &row.1)).collect(),
    }
}

fn curve(policy: &'static str, rates: &[f64]) -> Curve {
    let (name, colour) = match policy {
        LRU => ("LRU", BLUE),
        BELADY => ("Belady", GREY),
        OURS => ("Hearth", VERMILION),
        OURS_CLASSES => ("+classes", ORANGE),
        OURS_ENDS => ("+ends", ORANGE),
        "S3-FIFO" => ("S3-FIFO", GREEN),
        "SIEVE" => ("SIEVE", PURPLE),
        other => (other, PURPLE),
    };
    let dashed = matches!(policy, BELADY | OURS_ENDS | "W-TinyLFU");
    let points = SIZES_PERCENT.iter().zip(rates).map(|(size, rate)| (*size as f64, *rate)).collect();
    Curve { name: name.into(), colour, dashed, points }
}
