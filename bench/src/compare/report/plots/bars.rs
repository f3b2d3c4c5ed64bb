//! Horizontal bars, in groups.

use super::svg::{Anchor, Svg};

const WIDTH: f64 = 820.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 78.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;

/// A name and its colour.
pub(super) type Series = (String, &'static str);

/// What is drawn.
pub(super) struct Bars<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    /// Names and colours of the series.
    pub(super) series: &'a [Series],
    /// A group's name, and a value for each of the series.
    pub(super) groups: &'a [(String, Vec<Option<f64>>)],
}

impl Bars<'_> {
    /// The file.
    pub(super) fn draw(&self) -> String {
        let shown = |values: &[Option<f64>]| values.iter().flatten().count() as f64;
        let rows: f64 = self
            .groups
            .iter()
            .map(|(_, values)| shown(values) * BAR + GAP)
            .sum();
        let mut svg = Svg::new(WIDTH, TOP + rows + 24.0);
        svg.text((16.0, 26.0), Anchor::Start, "title", self.title);
        svg.text((16.0, 46.0), Anchor::Start, "quiet", self.subtitle);
        legend(&mut svg, self.series, 64.0);
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().flatten());
        let most = values.copied().fold(1.0, f64::max);
        let scale = (WIDTH - LEFT - RIGHT) / most;
        svg.line((LEFT + scale, TOP), (LEFT + scale, TOP + rows), "grid");
        let mut y = TOP + GAP / 2.0;
        for (name, values) in self.groups {
            let middle = y + shown(values) * BAR / 2.0 + 4.0;
            svg.text((LEFT - 10.0, middle), Anchor::End, "", name);
            for ((_, colour), value) in self.series.iter().zip(values) {
                let Some(value) = value else { continue };
                svg.bar((LEFT, y + 1.0), (value * scale, BAR - 2.0), colour);
                let end = (LEFT + value * scale + 6.0, y + BAR - 2.5);
                svg.text(end, Anchor::Start, "quiet", &format!("{value:.2}"));
                y += BAR;
            }
            y += GAP;
        }
        svg.line((LEFT, TOP), (LEFT, TOP + rows), "axis");
        svg.finish()
    }
}

/// Names of series with their colours, in a row.
pub(super) fn legend(svg: &mut Svg, series: &[Series], y: f64) {
    let mut x = 16.0;
    for (name, colour) in series {
        svg.bar((x, y - 9.0), (11.0, 11.0), colour);
        svg.text((x + 16.0, y + 1.0), Anchor::Start, "", name);
        x += 40.0 + 7.5 * name.len() as f64;
    }
}
