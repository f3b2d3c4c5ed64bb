//! Curves, both axes logarithmic.

use super::{
    bars::{Series, legend},
    svg::{Anchor, Svg},
};

const SIZE: (f64, f64) = (820.0, 440.0);
const LEFT: f64 = 84.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 106.0;
const BOTTOM: f64 = 56.0;

/// What is drawn.
pub(super) struct Curves<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    /// Places on the x axis with their names.
    pub(super) marks: &'a [(f64, String)],
    pub(super) series: &'a [Series],
    /// Points for each of the series, all above 0.
    pub(super) points: &'a [Vec<(f64, f64)>],
}

/// An axis: values from `low` to `high` are spread over pixels from `from` to `to`.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }
}

impl Curves<'_> {
    /// The file.
    pub(super) fn draw(&self) -> String {
        let mut svg = Svg::new(SIZE.0, SIZE.1);
        svg.text((16.0, 26.0), Anchor::Start, "title", self.title);
        svg.text((16.0, 46.0), Anchor::Start, "quiet", self.subtitle);
        legend(&mut svg, self.series, 66.0);
        let all = || self.points.iter().flatten();
        let (low, high) = bounds(all().map(|point| point.1));
        let y = Axis {
            low,
            high,
            from: SIZE.1 - BOTTOM,
            to: TOP,
        };
        let marks = || self.marks.iter().map(|mark| mark.0);
        let x = Axis {
            low: marks().fold(f64::INFINITY, f64::min),
            high: marks().fold(1e-9, f64::max),
            from: LEFT,
            to: SIZE.0 - RIGHT,
        };
        self.grid(&mut svg, &x, &y);
        for ((_, colour), points) in self.series.iter().zip(self.points) {
            let points: Vec<_> = points
                .iter()
                .map(|point| (x.at(point.0), y.at(point.1)))
                .collect();
            svg.curve(&points, colour);
        }
        svg.finish()
    }

    fn grid(&self, svg: &mut Svg, x: &Axis, y: &Axis) {
        for value in ticks(y.low, y.high) {
            let at = y.at(value);
            svg.line((LEFT, at), (SIZE.0 - RIGHT, at), "grid");
            svg.text((LEFT - 8.0, at + 4.0), Anchor::End, "quiet", &value.to_string());
        }
        for (value, name) in self.marks {
            let at = x.at(*value);
            svg.line((at, TOP), (at, SIZE.1 - BOTTOM), "grid");
            svg.text((at, SIZE.1 - BOTTOM + 18.0), Anchor::Middle, "quiet", name);
        }
        svg.line((LEFT, SIZE.1 - BOTTOM), (SIZE.0 - RIGHT, SIZE.1 - BOTTOM), "axis");
        svg.text(
            ((LEFT + SIZE.0 - RIGHT) / 2.0, SIZE.1 - 14.0),
            Anchor::Middle,
            "",
            self.x_name,
        );
        svg.text((LEFT - 8.0, TOP - 14.0), Anchor::End, "", self.y_name);
    }
}

/// Round values around all of `values`.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut least, mut most) = (f64::INFINITY, 0.0);
    for value in values.filter(|value| *value > 0.0) {
        (least, most) = (value.min(least), value.max(most));
    }
    if least > most {
        return (1.0, 10.0);
    }
    let below = ticks(least / 10.0, least).last().copied().unwrap_or(least);
    let above = ticks(most * 1.001, most * 10.0)
        .first()
        .copied()
        .unwrap_or(most * 2.0);
    (below, above)
}

/// 1, 2 and 5 times the powers of ten from `low` to `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = (-6..10).map(|power| 10f64.powi(power));
    let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * power));
    ticks
        .filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_round_and_hold_everything() {
        assert_eq!(bounds([130.0, 880.0].into_iter()), (100.0, 1000.0));
        assert_eq!(bounds([0.0].into_iter()), (1.0, 10.0));
        assert_eq!(ticks(1.0, 10.0), [1.0, 2.0, 5.0, 10.0]);
    }
}
