//! An engine in this process, for fast tests of what stands above engines: it isolates nothing and runs no programs.
