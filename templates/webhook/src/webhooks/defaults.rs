//! Defaults that have to be looked up. Those that are always the same stand in the kind.

use k8s_openapi::api::core::v1::Namespace;
use windlass::webhook::{Denied, Mutate, Review};

use super::Namespaces;
use crate::TemplateName;

/// The label of a namespace that says whose it is.
pub const TEAM: &str = "example.com/team";

/// Fills in what was left out.
pub(crate) struct Defaults {
    pub(crate) namespaces: Namespaces,
}

impl Mutate<TemplateName> for Defaults {
    async fn mutate(&self, object: &mut TemplateName, review: &Review<TemplateName>) -> Result<(), Denied> {
        if object.spec.team.is_none() {
            object.spec.team = team(&*self.namespaces.get(&review.namespace).await?);
        }
        Ok(())
    }
}

/// Whose a namespace is.
fn team(namespace: &Namespace) -> Option<String> {
    namespace.metadata.labels.as_ref()?.get(TEAM).filter(|team| !team.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    #[test]
    fn a_namespace_says_whose_it_is() {
        let labelled = |value: &str| {
            let labels = Some([(TEAM.to_owned(), value.to_owned())].into());
            Namespace { metadata: ObjectMeta { labels, ..ObjectMeta::default() }, ..Namespace::default() }
        };
        assert_eq!(team(&labelled("blue")).as_deref(), Some("blue"));
        assert_eq!(team(&labelled("")), None);
        assert_eq!(team(&Namespace::default()), None);
    }
}
