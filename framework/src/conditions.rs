//! Conditions: setting one changes its transition time only when its status changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::clock;

/// The types of a kind's conditions as an enum; [`derive(Condition)`](macro@crate::Condition) implements it.
///
/// ```
/// use windlass::{Condition, ConditionType};
///
/// #[derive(Condition, Clone, Copy)]
/// enum Sailing {
///     Ready,
///     Anchored,
/// }
///
/// assert_eq!(Sailing::Anchored.is(true, "Night", "").type_, "Anchored");
/// ```
pub trait ConditionType: Sized + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// The type as it stands in a condition.
    fn name(&self) -> &'static str;

    /// A condition of this type that became what it is now.
    #[must_use]
    fn is(&self, status: bool, reason: &str, message: impl Into<String>) -> Condition {
        condition(self.name(), status, reason, message)
    }
}

/// What can hold conditions: a list of them, as most statuses do.
pub trait ConditionsExt {
    /// The condition of this type.
    fn condition(&self, type_: &str) -> Option<&Condition>;

    /// Adds a condition or replaces the one of its type; true if anything changed. The transition time is kept while
    /// the status stays the same, and is set to now otherwise unless the caller gives one.
    fn set_condition(&mut self, condition: Condition) -> bool;

    /// Removes the condition of this type; true if there was one.
    fn remove_condition(&mut self, type_: &str) -> bool;
}

impl ConditionsExt for Vec<Condition> {
    fn condition(&self, type_: &str) -> Option<&Condition> {
        self.iter().find(|c| c.type_ == type_)
    }

    fn set_condition(&mut self, mut condition: Condition) -> bool {
        let Some(current) = self.iter_mut().find(|c| c.type_ == condition.type_) else {
            self.push(condition);
            return true;
        };
        if current.status == condition.status {
            condition.last_transition_time = current.last_transition_time.clone();
        }
        if *current == condition {
            return false;
        }
        *current = condition;
        true
    }

    fn remove_condition(&mut self, type_: &str) -> bool {
        let before = self.len();
        self.retain(|c| c.type_ != type_);
        self.len() != before
    }
}

/// A condition that became what it is now.
#[must_use]
pub fn condition(type_: &str, status: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: clock::time(),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_transition_time_moves_with_the_status_alone() {
        let mut list = Vec::new();
        assert!(list.set_condition(condition("Ready", false, "Starting", "")));
        let first = list[0].last_transition_time.clone();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert!(!list.set_condition(condition("Ready", false, "Starting", "")));
        assert!(list.set_condition(condition("Ready", false, "Waiting", "")));
        assert_eq!(list[0].last_transition_time, first);
        assert!(list.set_condition(condition("Ready", true, "Up", "")));
        assert!(list[0].last_transition_time.0 > first.0);
        assert!(list.remove_condition("Ready") && !list.remove_condition("Ready"));
    }
}
