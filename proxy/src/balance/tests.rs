use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::OutlierDetection;

/// SplitMix64.
fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn usable(cost: f64) -> Load {
    Load { cost, ejected: false }
}

fn settings() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(50),
        max_ejection_percent: 50,
    }
}

proptest! {
    #[test]
    fn an_ejected_one_is_chosen_only_when_all_are(ejected in prop::collection::vec(any::<bool>(), 1..8), seed: u64) {
        let loads = |index: usize| Load { cost: 1.0, ejected: ejected[index] };
        let chosen = choose(loads, ejected.len(), numbers(seed)).unwrap();
        prop_assert!(!ejected[chosen] || ejected.iter().all(|ejected| *ejected));
    }

    #[test]
    fn equal_loads_share_alike(count in 1usize..6, seed: u64) {
        let mut random = numbers(seed);
        let mut chosen = vec![0u32; count];
        for _ in 0..6000 {
            chosen[choose(|_| usable(1.0), count, &mut random).unwrap()] += 1;
        }
        let mean = 6000 / u32::try_from(count).unwrap();
        for times in chosen {
            prop_assert!(times.abs_diff(mean) < mean / 4, "{times} of {mean}");
        }
    }

    #[test]
    fn the_costliest_is_never_chosen(count in 2usize..6, seed: u64) {
        let loads = |index: usize| usable(if index == 0 { 2.0 } else { 1.0 });
        prop_assert_ne!(choose(loads, count, numbers(seed)), Some(0));
    }
}

#[test]
fn nothing_comes_of_nothing() {
    assert_eq!(choose(|_| usable(1.0), 0, numbers(1)), None);
    assert!(least_request(1, 2) < least_request(1, 1));
    assert!(peak_ewma(1.0, 1, 1) < peak_ewma(2.0, 1, 1));
}

#[test]
fn an_average_jumps_up_and_sinks() {
    let start = Instant::now();
    let decay = Duration::from_secs(10);
    let mut average = Ewma::new(Duration::from_millis(10), decay, start);
    average.observe(Duration::from_millis(100), start);
    assert!((average.milliseconds(start) - 100.0).abs() < 0.001);
    average.observe(Duration::from_millis(10), start + decay);
    let now = average.milliseconds(start + decay);
    assert!((40.0..50.0).contains(&now), "{now}");
    assert!(average.milliseconds(start + decay * 10) < 1.0);
}

#[test]
fn failures_in_a_row_eject_for_longer_each_time() {
    let start = Instant::now();
    let settings = settings();
    let limits = Limits {
        endpoints: 4,
        ejected: 0,
    };
    let mut record = Ejection::default();
    let fail = |record: &mut Ejection, at| (0..3).any(|_| record.record(true, limits, &settings, at));
    record.record(true, limits, &settings, start);
    record.record(false, limits, &settings, start);
    record.record(true, limits, &settings, start);
    assert!(!record.is_ejected(start));
    assert!(fail(&mut record, start));
    assert!(record.is_ejected(start + Duration::from_secs(29)));
    let back = start + Duration::from_secs(30);
    assert!(!record.is_ejected(back));
    assert!(fail(&mut record, back));
    assert!(record.is_ejected(back + Duration::from_secs(49)));
    assert!(!record.is_ejected(back + Duration::from_secs(50)));
    let later = back + Duration::from_secs(200);
    assert!(fail(&mut record, later));
    assert!(!record.is_ejected(later + Duration::from_secs(30)));
}

#[test]
fn not_more_than_the_share_is_ejected() {
    let now = Instant::now();
    let settings = OutlierDetection {
        consecutive_5xx: 1,
        ..settings()
    };
    let ejects = |endpoints, ejected| {
        let limits = Limits { endpoints, ejected };
        Ejection::default().record(true, limits, &settings, now)
    };
    assert!(!ejects(1, 0));
    assert!(ejects(2, 0));
    assert!(!ejects(2, 1));
    assert!(ejects(4, 1));
    assert!(!ejects(4, 2));
}
