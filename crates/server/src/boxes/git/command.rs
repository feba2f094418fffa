//! One call of git: what is run, and with which environment.

use super::token::Credentials;

/// Nobody is there to be asked, to read pages or to write in an editor: git goes on with what it has, or says what it lacks.
const ENVIRONMENT: [&str; 7] = [
    "GIT_TERMINAL_PROMPT=0",
    "GIT_ASKPASS=",
    "SSH_ASKPASS_REQUIRE=never",
    "GCM_INTERACTIVE=never",
    "GIT_PAGER=cat",
    "GIT_EDITOR=:",
    "GIT_SEQUENCE_EDITOR=:",
];
/// What git says is read: no translation, whatever the box's own language is.
const IN_ENGLISH: [&str; 2] = ["LC_ALL=C", "LANGUAGE=C"];

/// One call of git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    program: Vec<String>,
    args: Vec<String>,
    env: Vec<String>,
    pub(super) folder: String,
    pub(super) credentials: Option<Credentials>,
    /// Whether more output than is held is of no use, so that git need not go on.
    pub(super) stops_when_full: bool,
}

impl Command {
    /// A call whose words are read.
    pub(super) fn new<S: Into<String>>(folder: &str, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Self::verbatim(folder, args.into_iter().map(Into::into).collect());
        command.env.extend(IN_ENGLISH.map(str::to_owned));
        command
    }

    /// A call whose words are for somebody else.
    pub(super) fn verbatim(folder: &str, args: Vec<String>) -> Self {
        let env = ENVIRONMENT.map(str::to_owned).to_vec();
        let program = vec!["git".to_owned()];
        Self { program, args, env, folder: folder.to_owned(), credentials: None, stops_when_full: false }
    }

    /// Another program than git, on behalf of it.
    pub(super) fn program(folder: &str, argv: Vec<String>) -> Self {
        Self { program: argv, ..Self::new(folder, None::<String>) }
    }

    /// With a variable more.
    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// With a token, if there is one.
    pub(super) fn credentials(self, credentials: Option<Credentials>) -> Self {
        Self { credentials, ..self }
    }

    /// Only reads: takes no locks that would be in the way of others, and is ended when its output is full.
    pub(super) fn only_reads(self) -> Self {
        Self { stops_when_full: true, ..self }.variable("GIT_OPTIONAL_LOCKS", "0")
    }

    pub(super) fn argv(&self) -> Vec<String> {
        let opening = self.credentials.iter().flat_map(Credentials::arguments);
        self.program.iter().cloned().chain(opening).chain(self.args.iter().cloned()).collect()
    }

    /// The environment over that of every command. A token is last, so that nothing else can take its place.
    pub(super) fn env(&self) -> impl Iterator<Item = String> {
        self.env.iter().cloned().chain(self.credentials.iter().map(Credentials::variable))
    }
}
