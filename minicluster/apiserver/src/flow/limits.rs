//! How seats are shared among levels, and lent from one to another. Pure.
//!
//! Source: `k8s.io/apiserver/pkg/util/flowcontrol/conc_alloc.go`, KEP-1040.

/// What a level is configured to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) shares: i64,
    pub(super) lendable_percent: i64,
    /// `None`: as much as there is.
    pub(super) borrowing_percent: Option<i64>,
}

/// The seats of a level: by its share, when it lends all it may, and when it borrows all it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) nominal: i64,
    pub(super) min: i64,
    pub(super) max: i64,
}

/// What a level would like to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) bounds: Bounds,
    /// The most seats that were wanted at once in the last period.
    pub(super) peak: i64,
    /// The same, decaying.
    pub(super) smooth: f64,
}

/// Shares out the server's seats.
pub(super) fn nominal(total: i64, levels: &[Share]) -> Vec<Bounds> {
    let sum: i64 = levels.iter().map(|level| level.shares).sum::<i64>().max(1);
    let nominals: Vec<i64> = levels.iter().map(|level| (total * level.shares + sum - 1) / sum).collect();
    let all: i64 = nominals.iter().sum();
    let percent = |of: i64, percent: i64| ((of * percent) as f64 / 100.0).round() as i64;
    nominals
        .into_iter()
        .zip(levels)
        .map(|(nominal, level)| {
            let borrowed = level.borrowing_percent.map_or(all, |p| percent(nominal, p));
            Bounds {
                nominal,
                min: nominal - percent(nominal, level.lendable_percent),
                max: nominal + borrowed,
            }
        })
        .collect()
}

/// The seats of each level until the next period: everybody's lower bound first, then in proportion to what they
/// would like, as far as there is.
pub(super) fn lent(demands: &[Demand]) -> Vec<i64> {
    let total: i64 = demands.iter().map(|demand| demand.bounds.nominal).sum();
    let lower: Vec<i64> =
        demands.iter().map(|demand| demand.bounds.min.max(demand.peak.min(demand.bounds.nominal))).collect();
    let upper: Vec<i64> =
        demands.iter().zip(&lower).map(|(demand, lower)| demand.bounds.max.max(*lower)).collect();
    let target: Vec<f64> =
        demands.iter().zip(&lower).map(|(demand, lower)| demand.smooth.max(*lower as f64)).collect();
    let least: i64 = lower.iter().sum();
    if least >= total {
        return lower;
    }
    // The fair part: each gets `target * factor` within its bounds, with the factor that uses up everything.
    let sum = |factor: f64| -> f64 {
        target
            .iter()
            .zip(&lower)
            .zip(&upper)
            .map(|((t, l), u)| (t * factor).clamp(*l as f64, *u as f64))
            .sum()
    };
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while sum(high) < total as f64 && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if sum(middle) < total as f64 { low = middle } else { high = middle }
    }
    target
        .iter()
        .zip(&lower)
        .zip(&upper)
        .map(|((t, l), u)| ((t * high).clamp(*l as f64, *u as f64)).round() as i64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_levels_share_600_seats_as_upstream_documents() {
        let share = |shares, lendable_percent| Share { shares, lendable_percent, borrowing_percent: None };
        let levels = [
            share(10, 0),
            share(40, 25),
            share(30, 33),
            share(40, 50),
            share(100, 90),
            share(20, 50),
            share(5, 0),
        ];
        let bounds = nominal(600, &levels);
        let nominals: Vec<i64> = bounds.iter().map(|b| b.nominal).collect();
        assert_eq!(nominals, [25, 98, 74, 98, 245, 49, 13]);
        assert_eq!((bounds[4].min, bounds[0].min), (24, 25));
        assert!(bounds.iter().all(|b| b.max == b.nominal + 602));
    }

    #[test]
    fn idle_levels_lend_and_take_back() {
        let bounds = |nominal, min| Bounds { nominal, min, max: nominal + 100 };
        let demand = |b: Bounds, peak: i64| Demand { bounds: b, peak, smooth: peak as f64 };
        let (a, b) = (bounds(60, 10), bounds(40, 40));
        let idle = lent(&[demand(a, 0), demand(b, 200)]);
        assert_eq!(idle.iter().sum::<i64>(), 100);
        assert!(idle[0] == 10 && idle[1] == 90, "{idle:?}");
        assert_eq!(lent(&[demand(a, 100), demand(b, 200)]), [60, 40], "who needs its own has it");
        let quiet = lent(&[demand(a, 0), demand(b, 0)]);
        assert!(quiet[0] >= 10 && quiet[1] >= 40, "{quiet:?}");
    }
}
