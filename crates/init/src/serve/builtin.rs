//! Jobs that run a part of this program instead of another: the process that was made for the job goes on in our own code.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use boxyard_proto::files::ROOTS;
use boxyard_proto::wire::Builtin;

use crate::{files, sftp, sys};

/// The child's whole life once it is prepared. It is a copy of PID 1 with another user: nothing of that must be used or go on.
pub fn run(builtin: Builtin) -> ! {
    match builtin {
        Builtin::Sftp => run_as("sftp", c"sftp-server", sftp::serve),
        Builtin::Files => files_in(&ROOTS.map(|root| root.as_bytes().to_vec())),
    }
}

/// The work on files in these folders.
pub fn files_in(roots: &[Vec<u8>]) -> ! {
    run_as("files", c"files", |input, output| files::serve(roots, input, output))
}

/// Runs `serve` on standard input and output, as the whole rest of this process.
fn run_as(name: &str, title: &CStr, serve: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>) -> ! {
    // The last thing open besides the three is what our maker waits on, to hear that we are running.
    sys::close_all_but(&[]);
    sys::ignore_broken_pipes();
    // A panic must not get out of here: it would be caught by the copy of PID 1's event loop, which would then serve a second time.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let _ = rustix::thread::set_name(title);
        serve(rustix::stdio::stdin().as_fd(), rustix::stdio::stdout().as_fd())
    }));
    match ended {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(error)) => {
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("boxyard: {name}: {error}\n").as_bytes());
            sys::exit_now(1)
        }
        Err(_) => sys::exit_now(255),
    }
}
