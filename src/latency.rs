//! Histograms of durations, for the metrics.

use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds in seconds: from the sync of a fast disk to a delivery that waits overnight.
const BOUNDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 3600.0];

/// One histogram of durations; clones share it.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl Latency {
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    pub fn histogram(&self) -> Histogram {
        self.0.clone()
    }
}
