//! Steps of what is done to a box, at which tests end this process as a crash would.

/// Names the step that has just been done. In tests, the process that was told to die there dies.
#[cfg(not(test))]
pub(super) fn done(_step: &str) {}

/// The variable that names the step after which a test's process dies.
#[cfg(test)]
pub(super) const STOP_AFTER: &str = "BOXYARD_TEST_STOP_AFTER";

/// Names the step that has just been done. In tests, the process that was told to die there dies.
#[cfg(test)]
pub(super) fn done(step: &str) {
    if std::env::var_os(STOP_AFTER).is_some_and(|stop| stop == step) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
