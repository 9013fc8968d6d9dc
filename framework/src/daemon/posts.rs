//! Which object has a task, and what a change means for it. Pure: starts and stops nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::Key;

/// The tasks of objects, as far as deciding goes.
#[derive(Debug, Default)]
pub(super) struct Posts {
    posts: BTreeMap<Key, Post>,
    running: usize,
    /// Objects that wait for a task of another to end.
    waiting: BTreeSet<Key>,
}

#[derive(Debug, PartialEq, Eq)]
enum Post {
    Running {
        uid: String,
        stopping: bool,
    },
    /// The task of this object has ended by itself.
    Done {
        uid: String,
    },
}

/// What is to be done about an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    Nothing,
    Start,
    /// Tell the task to stop.
    Stop,
    /// Tell the task that its object changed.
    Nudge,
}

impl Posts {
    /// An object is as it is: `uid` if it should have a task.
    pub(super) fn look(&mut self, key: &Key, uid: Option<&str>, most: usize) -> Order {
        let Some(uid) = uid else {
            self.waiting.remove(key);
            return match self.posts.get_mut(key) {
                Some(Post::Running { stopping, .. }) if !*stopping => {
                    *stopping = true;
                    Order::Stop
                }
                Some(Post::Running { .. }) | None => Order::Nothing,
                Some(Post::Done { .. }) => {
                    self.posts.remove(key);
                    Order::Nothing
                }
            };
        };
        match self.posts.get_mut(key) {
            Some(Post::Running { uid: of, stopping: false }) if of == uid => Order::Nudge,
            Some(Post::Running { stopping, .. }) => {
                // Another object of the same name, or one that is wanted again: once this task has ended.
                if std::mem::replace(stopping, true) { Order::Nothing } else { Order::Stop }
            }
            Some(Post::Done { uid: of }) if of == uid => Order::Nothing,
            Some(Post::Done { .. }) | None => self.start(key, uid, most),
        }
    }

    fn start(&mut self, key: &Key, uid: &str, most: usize) -> Order {
        if self.running >= most {
            self.waiting.insert(key.clone());
            return Order::Nothing;
        }
        self.waiting.remove(key);
        self.running += 1;
        self.posts.insert(key.clone(), Post::Running { uid: uid.to_owned(), stopping: false });
        Order::Start
    }

    /// The task of an object has ended.
    pub(super) fn ended(&mut self, key: &Key) {
        let Some(Post::Running { uid, stopping }) = self.posts.remove(key) else { return };
        self.running -= 1;
        if !stopping {
            self.posts.insert(key.clone(), Post::Done { uid });
        }
    }

    /// Takes one object that waits, if there is room for its task.
    pub(super) fn next(&mut self, most: usize) -> Option<Key> {
        if self.running >= most { None } else { self.waiting.pop_first() }
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(None, name)
    }

    #[test]
    fn a_task_follows_its_object() {
        let (mut posts, a) = (Posts::default(), key("a"));
        assert_eq!(posts.look(&a, None, 9), Order::Nothing);
        assert_eq!(posts.look(&a, Some("1"), 9), Order::Start);
        assert_eq!(posts.look(&a, Some("1"), 9), Order::Nudge);
        assert_eq!(posts.look(&a, Some("2"), 9), Order::Stop, "another of the same name");
        assert_eq!(posts.look(&a, Some("2"), 9), Order::Nothing);
        posts.ended(&a);
        assert_eq!(posts.look(&a, Some("2"), 9), Order::Start);
        posts.ended(&a);
        assert_eq!(posts.look(&a, Some("2"), 9), Order::Nothing, "it has done its work");
        assert_eq!(posts.look(&a, None, 9), Order::Nothing);
        assert_eq!(posts.look(&a, Some("2"), 9), Order::Start, "it matches anew");
        assert_eq!(posts.look(&a, None, 9), Order::Stop);
        assert_eq!(posts.look(&a, None, 9), Order::Nothing);
        posts.ended(&a);
        assert_eq!((posts.running(), posts.posts.len()), (0, 0), "nothing is remembered");
    }

    #[test]
    fn there_is_a_bound() {
        let mut posts = Posts::default();
        assert_eq!(posts.look(&key("a"), Some("1"), 1), Order::Start);
        for name in ["c", "b", "d"] {
            assert_eq!(posts.look(&key(name), Some("1"), 1), Order::Nothing);
        }
        assert_eq!(posts.next(1), None);
        assert_eq!(posts.look(&key("b"), None, 1), Order::Nothing);
        posts.ended(&key("a"));
        assert_eq!(posts.next(1), Some(key("c")));
        assert_eq!(posts.look(&key("c"), Some("1"), 1), Order::Start);
        assert_eq!(posts.next(1), None);
    }
}
