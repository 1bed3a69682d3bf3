//! Transitions of losses as lines in the log.

use super::{Transition, Whose};
use tracing::{info, warn};

/// Logs them. Names were chosen by others, and are quoted.
pub fn tell(lines: &[Transition]) {
    for line in lines {
        match line {
            Transition::Began {
                whose,
                cause,
                envelopes,
            } => warn!(
                at = whose.place.name(),
                whose = whose.words(),
                lost = envelopes,
                reason = cause.name(),
                "begins to lose envelopes: {}. To do: {}; /losses has the rest",
                cause.meaning(),
                cause.remedy(),
            ),
            Transition::Over {
                whose,
                envelopes,
                lasted,
            } => info!(
                at = whose.place.name(),
                whose = whose.words(),
                lost = envelopes,
                lasted_s = lasted.as_secs(),
                "has lost nothing for 60 s"
            ),
            Transition::Unsaid(more) => warn!(
                more,
                "others began to lose envelopes or ceased to: /losses names them"
            ),
        }
    }
}

impl Whose {
    /// Whose, in words.
    fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(subscription) = &self.subscription {
            words.push(format!("subscription {subscription}"));
        }
        if let Some(filter) = self.filter {
            words.push(format!("filter {filter}"));
        }
        if let Some(app) = &self.app {
            words.push(format!("app {app}"));
        }
        if let Some(doppler) = &self.doppler {
            words.push(format!("Doppler {doppler}"));
        }
        match words.is_empty() {
            true => "agents".to_owned(),
            false => words.join(", "),
        }
    }
}
