//! Doing something many times, carefully: first once, then twice as often each time, and no more after a failure. So a
//! quota that is used up, or a webhook that refuses, costs one request and not five hundred.

use futures::future::join_all;

/// Calls `call` with `0..count` in batches that start with `first` and double. Returns how many went well, and the
/// first error of the batch that had one.
pub(crate) async fn slow_start<T, E>(
    count: usize,
    first: usize,
    mut call: impl FnMut(usize) -> T,
) -> (usize, Option<E>)
where
    T: Future<Output = Result<(), E>>,
{
    let (mut done, mut next, mut size) = (0, 0, first.max(1));
    while next < count {
        let end = count.min(next + size);
        let results = join_all((next..end).map(&mut call)).await;
        next = end;
        size *= 2;
        let mut failure = None;
        for result in results {
            match result {
                Ok(()) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        let mut calls = 0;
        let all = slow_start(10, 1, |_| {
            calls += 1;
            async { Ok::<(), ()>(()) }
        });
        assert_eq!(all.await, (10, None));
        assert_eq!(calls, 10);
        // 1, then 2, then 4 of which the one with number 5 fails: three of the batch went well, and no more follow.
        let mut calls = 0;
        let some = slow_start(100, 1, |i| {
            calls += 1;
            async move { if i == 5 { Err(i) } else { Ok(()) } }
        });
        assert_eq!(some.await, (6, Some(5)));
        assert_eq!(calls, 7);
    }
}
