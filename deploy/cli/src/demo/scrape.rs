//! Reads what is shown to Prometheus.

use std::collections::BTreeMap;

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    samples: Vec<Sample>,
}

/// One line of the exposition format.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value, empty when it is not there.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Scrape {
    /// Reads the text format; a line that is not understood is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self {
            samples: lines.filter_map(sample).collect(),
        }
    }

    /// The samples of a metric.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_of(|known| known == name)
    }

    /// The sum of every metric with such a name.
    #[must_use]
    pub fn sum_of(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let samples = self.samples.iter().filter(|sample| wanted(&sample.name));
        samples.map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = match line.find('{') {
        Some(brace) => (&line[..brace], &line[brace + 1..]),
        None => {
            let (name, value) = line.split_once(' ')?;
            return Some(Sample {
                name: name.to_owned(),
                labels: BTreeMap::new(),
                value: value.split(' ').next()?.parse().ok()?,
            });
        }
    };
    let (labels, value) = labels(rest)?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.trim().split(' ').next()?.parse().ok()?,
    })
}

/// `name="value",...} rest`, with `\\`, `\"` and `\n` in values.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_and_without_labels_are_read() {
        let scrape = Scrape::parse(
            "# TYPE a counter\na_total{x=\"1\",y=\"say \\\"hi\\\"\"} 3 1700000000\na_total{x=\"2\"} 4\nb 0.5\n# EOF\n",
        );
        assert_eq!(scrape.sum("a_total"), 7.0);
        assert_eq!(scrape.sum("b"), 0.5);
        assert_eq!(scrape.of("a_total").next().unwrap().label("y"), "say \"hi\"");
    }
}
