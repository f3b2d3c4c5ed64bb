//! Which endpoint gets a request, and which are left out for failing. Pure: loads are read through a closure, and
//! time and randomness are passed in, so the owner of the endpoints keeps the counters.

mod ewma;
mod outlier;
#[cfg(test)]
mod tests;

pub use ewma::Ewma;
pub use outlier::{Ejection, Limits};

/// What is known of an endpoint when one is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// What it would cost to send one more request, lower is better; see [`least_request`] and [`peak_ewma`].
    pub cost: f64,
    /// Left out for failing.
    pub ejected: bool,
}

/// The cost by requests on an endpoint: an endpoint of twice the weight carries twice the requests.
pub fn least_request(in_flight: u32, weight: u32) -> f64 {
    (f64::from(in_flight) + 1.0) / f64::from(weight.max(1))
}

/// The cost by how long the requests on an endpoint are expected to take.
pub fn peak_ewma(latency_ms: f64, in_flight: u32, weight: u32) -> f64 {
    // Untried endpoints cost a little, so that of several the idle one is tried.
    latency_ms.max(0.01) * least_request(in_flight, weight)
}

/// The cheaper of two of `count` endpoints taken at random, ejected ones left out unless all are. `random` gives
/// uniform 64-bit numbers. `None` when there are no endpoints.
pub fn choose(loads: impl Fn(usize) -> Load, count: usize, mut random: impl FnMut() -> u64) -> Option<usize> {
    match count {
        0 => return None,
        1 => return Some(0),
        _ => {}
    }
    let first = below(count, random());
    let offset = 1 + below(count - 1, random());
    let second = (first + offset) % count;
    let (a, b) = (loads(first), loads(second));
    match (a.ejected, b.ejected) {
        (false, false) => Some(if b.cost < a.cost { second } else { first }),
        (false, true) => Some(first),
        (true, false) => Some(second),
        (true, true) => Some(
            among_usable(&loads, count, &mut random).unwrap_or(if b.cost < a.cost { second } else { first }),
        ),
    }
}

/// The cheaper of two endpoints that are not ejected. Only looked for when two at random both were, which is rare.
fn among_usable(
    loads: &impl Fn(usize) -> Load,
    count: usize,
    random: &mut impl FnMut() -> u64,
) -> Option<usize> {
    let usable = || (0..count).filter(|index| !loads(*index).ejected);
    let len = usable().count();
    if len == 0 {
        return None;
    }
    let first = below(len, random());
    if len == 1 {
        return usable().next();
    }
    let second = (first + 1 + below(len - 1, random())) % len;
    let (first, second) = (usable().nth(first)?, usable().nth(second)?);
    Some(if loads(second).cost < loads(first).cost {
        second
    } else {
        first
    })
}

/// A uniform number in `0..len`.
fn below(len: usize, random: u64) -> usize {
    let scaled = (u128::from(random) * len as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}
