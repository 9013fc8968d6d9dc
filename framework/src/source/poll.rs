//! What another system answers when it is asked, for systems that tell nobody when something changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Source, SourceCx, timer::about};
use crate::{BoxError, Key, key::KeyMap};

/// The longest an answer is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

type Asked<V> = BoxFuture<'static, Result<BTreeMap<Key, V>, BoxError>>;

/// A source that asks once in every `period`, give or take a tenth, and has the keys reconciled whose answer is another
/// than last time, is new or is gone. The reconciler reads the last answers ([`Poll::answers`]).
///
/// ```
/// use std::{collections::BTreeMap, time::Duration};
///
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::{Controller, Key, source};
///
/// let prices = source::poll("prices", Duration::from_secs(60), |_| async {
///     // Ask the exchange here.
///     Ok(BTreeMap::from([(Key::new(Some("harbour"), "herring"), 42_u64)]))
/// });
/// let answers = prices.answers();
/// let controller = Controller::<ConfigMap>::new("market").source(prices);
/// assert_eq!(answers.get(&Key::new(Some("harbour"), "herring")), None, "nobody has asked yet");
/// ```
pub fn poll<V, T>(
    name: &'static str,
    period: Duration,
    ask: impl Fn(SourceCx) -> T + Send + Sync + 'static,
) -> Poll<V>
where
    V: Clone + PartialEq + Send + 'static,
    T: Future<Output = Result<BTreeMap<Key, V>, BoxError>> + Send + 'static,
{
    let ask = Box::new(move |cx| -> Asked<V> { Box::pin(ask(cx)) });
    Poll { name, period, ask, answers: Answers(Arc::default()) }
}

/// A poll; see [`poll`].
pub struct Poll<V> {
    name: &'static str,
    period: Duration,
    ask: Box<dyn Fn(SourceCx) -> Asked<V> + Send + Sync>,
    answers: Answers<V>,
}

/// The last answers of a [`Poll`]. Cheap to clone.
pub struct Answers<V>(Arc<Mutex<KeyMap<V>>>);

impl<V> Clone for Answers<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Clone + PartialEq> Answers<V> {
    /// The last answer for a key; `None` when there was none, or when nobody has asked yet.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<V> {
        self.0.lock().get(key).cloned()
    }

    /// Takes in new answers and names the keys whose answer is another, in order.
    fn take_in(&self, new: &BTreeMap<Key, V>) -> Vec<Key> {
        let mut known = self.0.lock();
        let mut gone: Vec<Key> = known.keys().filter(|key| !new.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| drop(known.remove(key)));
        for (key, value) in new {
            if known.get(key) != Some(value) {
                known.insert(key.clone(), value.clone());
                gone.push(key.clone());
            }
        }
        gone.sort();
        gone
    }
}

impl<V> Poll<V> {
    /// What it was answered last, for the reconciler. Stays as it is while asking fails.
    #[must_use]
    pub fn answers(&self) -> Answers<V> {
        self.answers.clone()
    }
}

impl<V: Clone + PartialEq + Send + 'static> Source for Poll<V> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, cx: SourceCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            loop {
                let answer = tokio::time::timeout(PATIENCE, (self.ask)(cx.clone())).await;
                let new = answer.map_err(|_| format!("it did not answer within {PATIENCE:?}"))??;
                self.answers.take_in(&new).into_iter().for_each(|key| cx.enqueue.now(key));
                cx.succeeded();
                tokio::time::sleep(about(self.period, 0.1, &cx)).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_answers_trigger() {
        let key = |name: &str| Key::new(None, name);
        let answers = Answers(Arc::default());
        let first = BTreeMap::from([(key("a"), 1), (key("b"), 1)]);
        assert_eq!(answers.take_in(&first), [key("a"), key("b")]);
        assert_eq!(answers.take_in(&first), []);
        let second = BTreeMap::from([(key("b"), 2), (key("c"), 1)]);
        assert_eq!(answers.take_in(&second), [key("a"), key("b"), key("c")]);
        assert_eq!((answers.get(&key("a")), answers.get(&key("b"))), (None, Some(2)));
    }
}
