//! A small thread pool for many short jobs.
//!
//! A job is a number of pieces, claimed one at a time, so a thread that loses its core to
//! another program delays one piece and not its whole share. Threads spin for a moment between
//! jobs, because the next layer follows within microseconds, and then sleep: a box that also
//! decodes video needs its cores. The thread that waits for the last piece sleeps as well:
//! an idle core is where the system moves the thread that lost its own, while a core that spins
//! or yields looks busy (three times the time of a frame beside an endless loop).
//!
//! The orders in which threads can meet are checked with loom: see `tests/loom`.
#![allow(
    unsafe_code,
    reason = "lends a borrowed closure to threads that outlive it"
)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard,
    UnsafeCell, fence, spin_loop,
};

/// Turns of the spin loop before a thread sleeps: some tens of microseconds.
#[cfg(not(loom))]
const SPINS: usize = 2000;
/// One turn has every order of events that more turns have, and loom tries them all.
#[cfg(loom)]
const SPINS: usize = 1;

#[cfg(not(loom))]
mod sync {
    pub(super) use std::hint::spin_loop;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(super) use std::thread::{Builder, JoinHandle};

    /// The standard cell with loom's interface, which lends the pointer to a closure so that
    /// loom sees where an access begins and ends.
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

#[cfg(loom)]
mod sync {
    pub(super) use loom::cell::UnsafeCell;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(super) use loom::thread::{Builder, JoinHandle};

    /// Not loom's own, which lets every other thread run until it waits: a worker would never
    /// be asleep before a job comes.
    pub(super) fn spin_loop() {}
}

/// A job, called as `(thread, piece)`.
type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads that share jobs with the thread that calls [`Pool::run`]; dropping joins them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Job number in the upper half, pieces not yet claimed in the lower: one word, so that a
    /// late thread can never claim a piece of a newer job by an older job's count.
    unclaimed: AtomicU64,
    /// Pieces done.
    done: AtomicUsize,
    /// Pieces of the current job.
    pieces: AtomicUsize,
    job: UnsafeCell<Option<*const Job<'static>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// Whether [`Pool::run`] sleeps until the last piece is done.
    waiting: AtomicBool,
    finished: Condvar,
    /// The first panic of a piece, raised again by [`Pool::run`].
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `job` is written only while no piece is unclaimed or running, and read only by a
// thread that has claimed a piece; the claim on `unclaimed` orders the two
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed while `Pool::run` keeps the closure borrowed
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the calling one included.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            unclaimed: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            pieces: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            waiting: AtomicBool::new(false),
            finished: Condvar::new(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
        };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            // on an error the pool is dropped and joins what has started
            pool.workers.push(
                Builder::new()
                    .name(format!("cpu engine {thread}"))
                    .spawn(move || shared.serve(thread))?,
            );
        }
        Ok(pool)
    }

    /// Threads, the calling one included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` once for every piece and returns when all are done.
    ///
    /// # Panics
    /// With the panic of a piece, after all others are done.
    pub(super) fn run(&mut self, pieces: usize, job: &Job<'_>) {
        if self.workers.is_empty() || pieces <= 1 {
            return (0..pieces).for_each(|piece| job(0, piece));
        }
        self.shared.publish(pieces, job);
        while let Some((job, piece)) = self.shared.claim() {
            self.shared.work(job, 0, piece);
        }
        self.shared.wait_done();
        if let Some(panic) = lock(&self.shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // a worker looks at `stop` under the lock: it has not looked yet, or it waits by now
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // pieces are caught, so a worker never panics; nothing to report
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn publish(&self, pieces: usize, job: &Job<'_>) {
        let next = (self.unclaimed.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        // SAFETY: only the lifetime changes; `run` borrows the closure until every piece is done
        let job = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the last job is done, so nobody reads the cell until `unclaimed` is stored
        self.job.with_mut(|cell| unsafe { *cell = Some(job) });
        self.done.store(0, Ordering::Relaxed);
        self.pieces.store(pieces, Ordering::Relaxed);
        self.unclaimed
            .store(next | pieces as u64, Ordering::Release);
        // between the job and the count of sleepers, as in `sleep` between the count and the
        // job: one of the two threads sees what the other wrote
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    /// Takes one piece of the current job.
    fn claim(&self) -> Option<(*const Job<'static>, usize)> {
        let mut seen = self.unclaimed.load(Ordering::Acquire);
        loop {
            let left = seen & u64::from(u32::MAX);
            if left == 0 {
                return None;
            }
            match self.unclaimed.compare_exchange_weak(
                seen,
                seen - 1,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        let left = (seen & u64::from(u32::MAX)) as usize;
        // SAFETY: a claimed piece is not done, so `run` still waits and leaves the cell alone
        let job = self.job.with(|cell| unsafe { *cell })?;
        Some((job, self.pieces.load(Ordering::Relaxed) - left))
    }

    fn work(&self, job: *const Job<'static>, thread: usize, piece: usize) {
        // SAFETY: the piece is claimed and not done, so `run` keeps the closure borrowed
        let job = unsafe { &*job };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(thread, piece))) {
            lock(&self.panic).get_or_insert(panic);
        }
        // read first: once the last piece is done, these belong to the next job
        let pieces = self.pieces.load(Ordering::Relaxed);
        let done = self.done.fetch_add(1, Ordering::AcqRel) + 1;
        if done == pieces {
            fence(Ordering::SeqCst); // see `wait_done`
            if self.waiting.load(Ordering::Relaxed) {
                drop(lock(&self.sleep));
                self.finished.notify_one();
            }
        }
    }

    /// Waits for the pieces of other threads. The waiter sets its flag before it looks at the
    /// count, and the last piece is counted before its thread looks at the flag, with a fence
    /// between the two on both sides: one of the two always sees the other.
    fn wait_done(&self) {
        let pieces = self.pieces.load(Ordering::Relaxed);
        let all = || self.done.load(Ordering::Acquire) >= pieces;
        for _ in 0..SPINS {
            if all() {
                return;
            }
            spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !all() {
            guard = self
                .finished
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// Worker loop.
    fn serve(&self, thread: usize) {
        let mut turns = 0;
        while !self.stop.load(Ordering::Acquire) {
            if let Some((job, piece)) = self.claim() {
                self.work(job, thread, piece);
                turns = 0;
            } else if turns < SPINS {
                turns += 1;
                spin_loop();
            } else {
                self.sleep();
                turns = 0;
            }
        }
    }

    /// Sleeps until there is a job. The sleeper counts itself before it looks for a job, and
    /// `publish` stores the job before it looks for sleepers, with a fence between the two on
    /// both sides: one of the two always sees the other.
    fn sleep(&self) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.unclaimed.load(Ordering::Relaxed) & u64::from(u32::MAX) == 0
            && !self.stop.load(Ordering::Relaxed)
        {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// No code under these locks can leave them half-changed, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_job_after_job() {
        for threads in [1, 2, 4] {
            let mut pool = Pool::new(threads).unwrap();
            for pieces in (0..200).map(|i| i % 7) {
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run(pieces, &|thread, piece| {
                    assert!(thread < threads);
                    counts[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1)
                );
            }
        }
    }

    #[test]
    fn sleeping_threads_wake_up_for_a_job() {
        let mut pool = Pool::new(3).unwrap();
        while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        // the pieces wait for each other, so at least two threads must have come
        let arrived = AtomicUsize::new(0);
        pool.run(2, &|_, _| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|_, piece| assert_ne!(piece, 3, "piece three"));
        }));
        assert!(panicked.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|_, piece| {
            sum.fetch_add(piece, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}

/// Run by `tests/loom`: every order of events in which the threads can meet, up to a number of
/// preemptions, and every value that the memory model lets an atomic show.
#[cfg(all(test, loom))]
mod model {
    use super::*;

    /// A value for each piece, written by whoever runs the piece.
    struct Written(Vec<UnsafeCell<usize>>);

    // SAFETY: a piece is run by one thread, and read after `run` has returned; loom fails the
    // test where that does not hold
    unsafe impl Sync for Written {}

    impl Written {
        fn new(pieces: usize) -> Written {
            Written((0..pieces).map(|_| UnsafeCell::new(0)).collect())
        }

        fn add(&self, piece: usize) {
            // SAFETY: see `Sync` above
            self.0[piece].with_mut(|value| unsafe { *value += 1 });
        }

        fn all_once(&self) -> bool {
            // SAFETY: see `Sync` above
            let value = |cell: &UnsafeCell<usize>| cell.with(|value| unsafe { *value });
            self.0.iter().all(|cell| value(cell) == 1)
        }
    }

    fn check(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(test);
    }

    #[test]
    fn a_worker_that_looks_or_sleeps_ends_with_the_pool() {
        check(3, || drop(Pool::new(2).unwrap()));
    }

    #[test]
    fn every_piece_runs_once_and_is_seen_job_after_job() {
        check(3, || {
            let mut pool = Pool::new(2).unwrap();
            for _ in 0..2 {
                let written = Written::new(2);
                pool.run(2, &|_, piece| written.add(piece));
                assert!(written.all_once());
            }
        });
    }

    #[test]
    fn no_worker_sleeps_through_a_job() {
        check(3, || {
            let mut pool = Pool::new(2).unwrap();
            // the pieces wait for each other, so the caller cannot run both
            let arrived = AtomicUsize::new(0);
            pool.run(2, &|_, _| {
                arrived.fetch_add(1, Ordering::AcqRel);
                while arrived.load(Ordering::Acquire) < 2 {
                    loom::thread::yield_now();
                }
            });
        });
    }

    #[test]
    fn two_workers_share_a_job() {
        check(2, || {
            let mut pool = Pool::new(3).unwrap();
            let written = Written::new(2);
            pool.run(2, &|_, piece| written.add(piece));
            assert!(written.all_once());
        });
    }

    #[test]
    fn a_panic_comes_out_after_the_other_pieces_are_done() {
        check(3, || {
            let mut pool = Pool::new(2).unwrap();
            let written = Written::new(2);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                pool.run(2, &|_, piece| {
                    written.add(piece);
                    if piece == 1 {
                        // not `panic!`, whose message would be printed for every order
                        resume_unwind(Box::new("piece one"));
                    }
                });
            }));
            assert!(panicked.is_err() && written.all_once());
        });
    }
}
