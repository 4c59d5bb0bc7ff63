//! Work on several blobs at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does `act` for the numbers in `order`, on so many threads, each of which does `begin` first; what came of each number. The first failure
/// is the result: what has begun by then goes on to its end, and nothing else begins.
pub(crate) fn side_by_side<T: Send, E: Send>(
    order: &[usize],
    workers: usize,
    begin: impl Fn() + Sync,
    act: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<(usize, T)>, E> {
    let (done, failure) = (Mutex::new(Vec::with_capacity(order.len())), Mutex::new(None));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        begin();
        while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop.load(Ordering::Relaxed)) {
            match act(*index) {
                Ok(one) => done.lock().unwrap_or_else(PoisonError::into_inner).push((*index, one)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(order.len()) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_a_failure_ends_it() {
        let mut all = side_by_side(&[2, 0, 1], 2, || {}, |index| Ok::<_, ()>(index * 10)).unwrap();
        all.sort_unstable();
        assert_eq!(all, [(0, 0), (1, 10), (2, 20)]);
        let begun = AtomicUsize::new(0);
        let act = |index| {
            begun.fetch_add(1, Ordering::Relaxed);
            if index == 1 { Err(index) } else { Ok(()) }
        };
        assert_eq!(side_by_side(&[0, 1, 2, 3], 1, || {}, act), Err(1));
        assert_eq!(begun.into_inner(), 2);
        assert_eq!(side_by_side(&[], 3, || {}, |_| Ok::<_, ()>(())), Ok(Vec::new()));
    }
}
