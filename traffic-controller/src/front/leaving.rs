//! When a stream ends while the process drains: each at a moment of its own, so that not all
//! clients come back elsewhere in the same instant.

use crate::dopplers::LEAVE;
use std::time::Duration;
use transport::shutdown::Shutdown;

/// What a stream knows of the drain.
#[derive(Debug, Clone)]
pub struct Leaving {
    shutdown: Shutdown,
    /// Over how long the streams' ends are spread.
    spread: Duration,
}

impl Leaving {
    /// Streams end within `spread` of the shutdown.
    pub fn new(shutdown: Shutdown, spread: Duration) -> Leaving {
        Leaving { shutdown, spread }
    }

    /// Resolves when one stream is to end: until then it goes on as ever.
    pub(super) async fn begun(&self) {
        self.shutdown.begun().await;
        tokio::time::sleep(self.spread.mul_f64(fastrand::f64())).await;
    }

    /// Resolves when every stream should have ended.
    pub(super) async fn overdue(&self) {
        self.shutdown.begun().await;
        tokio::time::sleep(self.spread + LEAVE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use tokio::time::Instant;
    use transport::shutdown::Drain;

    #[tokio::test(start_paused = true)]
    async fn streams_end_one_after_the_other_over_the_whole_spread() {
        let drain = Drain::new();
        let spread = Duration::from_secs(2);
        let leaving = Leaving::new(drain.shutdown(), spread);
        drain.begin();
        let began = Instant::now();
        let ends = (0..1_000).map(|_| async {
            leaving.begun().await;
            began.elapsed()
        });
        let ends = join_all(ends).await;
        assert!(
            ends.iter()
                .all(|end| *end <= spread + Duration::from_millis(1))
        );
        // In each tenth of it about 100.
        for tenth in 0..10 {
            let of_it = spread / 10 * tenth..spread / 10 * (tenth + 1);
            let count = ends.iter().filter(|end| of_it.contains(*end)).count();
            assert!((50..200).contains(&count), "{count} in the {tenth}. tenth");
        }
    }
}
