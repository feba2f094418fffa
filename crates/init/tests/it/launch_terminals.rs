//! Terminals in real boxes.

use boxyard_proto::wire::{Exec, FailedKind, OnClose, PtySize, Scope, ToInit, User};

use crate::support::boxes::TestBox;
use crate::support::client::{Client, command, ok, on_terminal, refused, run, shell};

/// An interactive shell of the box's user, whose prompt is `ready> `.
fn login() -> Exec {
    let env = vec!["PS1=ready> ".into(), "HISTFILE=".into(), "TERM=dumb".into()];
    let bash = command(&["bash", "--norc", "--noprofile", "-i"]);
    Exec { env, user: User::BOXUSER, folder: "/home/user".into(), on_close: OnClose::Hangup, ..on_terminal(bash) }
}

#[test]
fn a_login_in_a_box_has_a_terminal_of_the_boxs_own() {
    let made = TestBox::launched();
    let mut client = Client::new(made.socket());
    client.start(login());
    client.until("ready> ");
    client.input(b"tty; stat -c %u:%g:%a $(tty); echo by way of $((6 * 7)) > /dev/tty\n");
    let seen = client.until("by way of 42\r\n");
    assert!(seen.contains("/dev/pts/0\r\n1000:5:620\r\n"), "{seen}");
    client.input(b"case $- in *m*) echo job control: $((6 + 1));; esac\n");
    client.until("job control: 7\r\n");
    client.say(&ToInit::Resize { size: PtySize { columns: 120, rows: 40, width: 0, height: 0 } });
    client.input(b"stty size; echo size $((1))\n");
    assert!(client.until("size 1\r\n").contains("40 120\r\n"));
    client.input(b"sh -c 'echo fore$((1)); exec sleep 1000'\n");
    client.until("fore1\r\n");
    client.say(&ToInit::Signal { signal: libc::SIGINT, scope: Scope::Group });
    client.until("ready> ");
    client.input(b"echo code $?\n");
    client.until("code 130\r\n");
    client.input(b"sh -c 'echo fore$((2)); exec sleep 1000'\n");
    client.until("fore2\r\n");
    drop(client);
    made.cgroup.wait_until_empty("job-1");
    // It is gone as well, and its number free.
    assert_eq!(ok(made.socket(), "ls /dev/pts"), "ptmx");
}

#[test]
fn nobody_types_into_another_ones_terminal() {
    let made = TestBox::launched();
    let commands = "for $command (0x5412, 0x541c, 0x5423, 0x541200005412 >> 32 << 32 | 0x5412) { $a = \"\\0\" x 8; ioctl(STDIN, $command, $a) and print \"done\"; print \"$!\\n\" }";
    for user in [User::ROOT, User::BOXUSER] {
        let exec = Exec { user, ..on_terminal(command(&["perl", "-e", commands])) };
        let refusals = run(made.socket(), exec).text();
        assert_eq!(refusals.lines().collect::<Vec<_>>(), ["Operation not permitted"; 4]);
    }
}

#[test]
fn programs_make_terminals_of_their_own() {
    let made = TestBox::launched();
    // What sudo, script and tmux do: a pair from /dev/ptmx, a session, a controlling terminal.
    let script = r#"
        open(M, "+<", "/dev/ptmx") or die "ptmx: $!";
        $unlocked = pack("i", 0);
        ioctl(M, 0x40045431, $unlocked) or die "unlock: $!";
        $number = pack("i", 0);
        ioctl(M, 0x80045430, $number) or die "number: $!";
        $path = "/dev/pts/" . unpack("i", $number);
        if (!fork) {
            exec "setsid", "sh", "-c", "exec < $path > $path 2>&1; echo inner > /dev/tty; tty";
        }
        print scalar <M>; print scalar <M>;
    "#;
    let exec = Exec { user: User::BOXUSER, ..on_terminal(command(&["perl", "-e", script])) };
    let outcome = run(made.socket(), exec);
    assert_eq!(outcome.text().split_whitespace().collect::<Vec<_>>(), ["inner", "/dev/pts/1"]);
}

#[test]
fn what_a_box_puts_in_the_place_of_its_terminals_is_not_taken() {
    let made = TestBox::launched();
    let plants = [
        "mkfifo /dev/ptmx",
        "ln -s null /dev/ptmx",
        "ln -s tty /dev/ptmx",
        "ln -s /etc/passwd /dev/ptmx",
        "ln -s ptmx /dev/ptmx",
        "mkdir /dev/ptmx",
        "true",
    ];
    for plant in plants {
        ok(made.socket(), &format!("rm -rf /dev/ptmx; {plant}"));
        let (kind, message) = refused(made.socket(), on_terminal(shell("true")));
        assert_eq!(kind, FailedKind::Other, "{plant}: {message}");
        assert!(message.starts_with("opening a terminal: "), "{plant}: {message}");
    }
    assert_eq!(made.cgroup.leaves(), ["init"], "a refused job leaves no cgroup");
    ok(made.socket(), "rm -rf /dev/ptmx; ln -s pts/ptmx /dev/ptmx");
    assert_eq!(run(made.socket(), on_terminal(shell("tty"))).text(), "/dev/pts/0");
}

#[test]
fn a_box_has_a_limited_number_of_terminals() {
    let made = TestBox::launched();
    let script = r#"for (1..300) { open($m[$_], "+<", "/dev/ptmx") or last } print scalar(grep { defined && fileno $_ } @m), " $!\n"; $| = 1; <STDIN>"#;
    let mut client = Client::new(made.socket());
    client.start(Exec { stdin: true, ..command(&["perl", "-e", &format!("$| = 1; {script}")]) });
    client.until("256 No space left on device\n");
    assert_eq!(refused(made.socket(), on_terminal(shell("true"))).0, FailedKind::Exhausted);
    client.input(b"\n");
    client.finish();
    assert_eq!(run(made.socket(), on_terminal(shell("tty"))).text(), "/dev/pts/0");
}

#[test]
fn a_remote_login_without_a_terminal_is_hung_up_on_in_a_box() {
    let made = TestBox::launched();
    let mut client = Client::new(made.socket());
    let script = "setsid sh -c 'echo left; exec sleep 1000' & sleep 1000 & wait";
    let first = client.start(Exec { user: User::BOXUSER, on_close: OnClose::Hangup, ..shell(script) });
    client.until("left\n");
    drop(client);
    // The shell and the other sleep go; who has left stays.
    let seen = ok(
        made.socket(),
        &format!("while kill -0 {first} 2> /dev/null; do :; done; cat /proc/[0-9]*/comm | grep -c sleep; true"),
    );
    assert!(["1", "2"].contains(&seen.as_str()), "the shell went, {seen} sleep");
    ok(made.socket(), "while [ $(cat /proc/[0-9]*/comm | grep -c sleep) != 1 ]; do :; done");
}

#[test]
fn who_forks_without_end_is_ended_in_a_box() {
    let made = TestBox::launched();
    let mut client = Client::new(made.socket());
    let fork = "$SIG{HUP} = $SIG{TERM} = sub {}; fork; $| = 1; print \"ready\\n\"; while (1) { exit if fork }";
    client.start(Exec { user: User::BOXUSER, on_close: OnClose::Hangup, ..command(&["perl", "-e", fork]) });
    client.until("ready\n");
    drop(client);
    made.cgroup.wait_until_empty("job-1");
}
