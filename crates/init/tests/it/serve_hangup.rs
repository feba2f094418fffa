//! Remote logins: what ends with their connection and what does not, on the host.

use boxyard_proto::wire::{Exec, OnClose, ToInit};

use crate::support::client::{Client, command, is_alive, on_terminal, run, shell, wait_for_process_end};
use crate::support::folder;
use crate::support::server::Server;

/// A command of a remote login without a terminal.
fn remote(script: &str) -> Exec {
    Exec { on_close: OnClose::Hangup, stdin: true, ..shell(script) }
}

/// One that stays through everything but KILL.
const STUBBORN: &str =
    "perl -e '$SIG{HUP} = $SIG{TERM} = sub {}; $| = 1; print \"stubborn $$\\n\"; sleep 1000 while 1'";

/// The number that follows `word` in `seen`.
fn number(seen: &str, word: &str) -> u32 {
    let mut words = seen.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {word} in {seen}"))
}

/// Reads until all of `words` have been seen.
fn until_all(client: &mut Client, words: &[&str]) -> String {
    let mut seen = String::new();
    for word in words {
        if !seen.contains(word) {
            seen.push_str(&client.until(word));
        }
    }
    // A number may follow the last word, and a prompt the number.
    let whole = |word: &&str| seen.rsplit(word).next().is_some_and(|rest| rest.contains('\n'));
    if !words.iter().all(whole) {
        seen.push_str(&client.until("\n"));
    }
    seen
}

#[test]
fn a_closed_connection_hangs_up() {
    let server = Server::in_a_hurry();
    let mut client = Client::new(server.socket());
    client.start(remote("sleep 1000 & (sleep 1000; true) & echo ready; wait"));
    client.until("ready\n");
    drop(client);
    server.cgroup.wait_until_empty("job-1");

    // Even when its input is stuck.
    let mut client = Client::new(server.socket());
    client.start(remote("echo ready; sleep 1000"));
    client.until("ready\n");
    client.stuff();
    drop(client);
    server.cgroup.wait_until_empty("job-2");

    // Who catches the signals goes too, in the end.
    let mut client = Client::new(server.socket());
    client.start(remote(&format!("echo $(ps -o sid= -p $$) | grep -q . && {STUBBORN}")));
    client.until("stubborn");
    drop(client);
    server.cgroup.wait_until_empty("job-3");

    // And who was stopped.
    let mut client = Client::new(server.socket());
    client.start(remote("sh -c 'echo ready; kill -STOP $$'"));
    client.until("ready\n");
    drop(client);
    server.cgroup.wait_until_empty("job-4");
}

#[test]
fn who_has_left_or_does_not_listen_goes_on() {
    let server = Server::in_a_hurry();
    let mut client = Client::new(server.socket());
    let script = format!(
        "nohup sh -c 'echo nohup $$; exec sleep 1000' &
         setsid sh -c 'echo left $$; exec sleep 1000' &
         sh -c 'echo plain $$; exec sleep 1000' &
         {STUBBORN} & wait"
    );
    client.start(remote(&script));
    let seen = until_all(&mut client, &["nohup", "left", "plain", "stubborn"]);
    drop(client);
    wait_for_process_end(number(&seen, "plain"));
    // The stubborn one is ended last; then all is over.
    wait_for_process_end(number(&seen, "stubborn"));
    for word in ["nohup", "left"] {
        assert!(is_alive(number(&seen, word)), "{word} was ended");
    }
    let outcome = run(server.socket(), shell(&format!("kill {} {}", number(&seen, "nohup"), number(&seen, "left"))));
    assert_eq!(outcome.exit.code, 0);
    server.cgroup.wait_until_empty("job-1");
}

/// As editors start theirs, by a script that goes on; and Node, for one, undoes what `nohup` has done for it.
#[test]
fn a_server_that_was_put_into_the_background_goes_on_with_all_that_it_has_started() {
    let server = Server::in_a_hurry();
    let folder = folder("hangup-servers");
    let mut client = Client::new(server.socket());
    let script = r#"
        exec 3<&0
        mkfifo told
        announce='echo $0 $$ > told; exec env --default-signal=HUP sleep 1000'
        nohup sh -c 'sh -c "$0" child; true' "$announce" &
        sh -c 'sh -c "$0" grandchild | cat; true' "$announce" > log 2>&1 < /dev/null &
        sh -c "$announce" silent > /dev/null 2>&1 < /dev/null &
        sh -c "$announce" listening > log 2>&1 <&3 &
        exec 4<> told
        for each in 1 2 3 4; do read -r line <&4; echo "$line"; done
        echo leader $$
        exec sleep 1000 > log 2>&1 < /dev/null
    "#;
    let exec = Exec { folder: folder.to_string_lossy().into_owned(), ..remote(script) };
    client.start(exec);
    let seen = until_all(&mut client, &["child", "grandchild", "silent", "listening", "leader"]);
    drop(client);
    // What has no log, what could still be told something, and what the login was for.
    for word in ["silent", "listening", "leader"] {
        wait_for_process_end(number(&seen, word));
    }
    for word in ["child", "grandchild"] {
        assert!(is_alive(number(&seen, word)), "{word} was ended: {seen}");
    }
    let outcome =
        run(server.socket(), shell(&format!("kill {} {}", number(&seen, "child"), number(&seen, "grandchild"))));
    assert_eq!(outcome.exit.code, 0);
    server.cgroup.wait_until_empty("job-1");
    std::fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn what_goes_on_may_write_as_before() {
    let server = Server::in_a_hurry();
    let folder = folder("hangup");
    let mut client = Client::new(server.socket());
    // More than all pipes and sockets on the way hold.
    let script =
        "nohup sh -c 'echo nohup $$; read line < go; head -c 20000000 /dev/zero; echo code $? > written' & wait";
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("go"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a pipe");
    let exec = Exec { folder: folder.to_string_lossy().into_owned(), ..remote(script) };
    let first = client.start(exec);
    let seen = until_all(&mut client, &["nohup"]);
    drop(client);
    wait_for_process_end(first);
    std::fs::write(folder.join("go"), "go\n").expect("let it go on");
    wait_for_process_end(number(&seen, "nohup"));
    assert_eq!(std::fs::read_to_string(folder.join("written")).expect("it came so far"), "code 0\n");
    std::fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn a_command_is_over_when_nobody_can_write_any_more() {
    let server = Server::in_a_hurry();
    let folder = folder("late");
    let fifo = |name: &str| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, folder.join(name), rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    };
    fifo("go");
    let mut client = Client::new(server.socket());
    let exec = remote("(read line < go; echo late; echo later >&2) & echo now; exit 3");
    let first = client.start(Exec { folder: folder.to_string_lossy().into_owned(), ..exec });
    client.until("now\n");
    wait_for_process_end(first);
    std::fs::write(folder.join("go"), "go\n").expect("let it go on");
    let outcome = client.finish();
    assert_eq!((outcome.text().as_str(), outcome.complaint().as_str(), outcome.exit.code), ("late", "later\n", 3));
    std::fs::remove_dir_all(folder).expect("clean up");

    // Who leaves before that hangs up on whoever is left.
    let mut client = Client::new(server.socket());
    let first = client.start(remote("sleep 1000 & echo now"));
    client.until("now\n");
    wait_for_process_end(first);
    drop(client);
    server.cgroup.wait_until_empty("job-2");

    // And it can be ended like any other.
    let mut client = Client::new(server.socket());
    let first = client.start(remote("setsid sleep 1000 & echo now"));
    client.until("now\n");
    wait_for_process_end(first);
    client.say(&ToInit::End { grace_ms: 0 });
    assert_eq!(client.finish().exit.code, 0);
    server.cgroup.wait_until_empty("job-3");
}

#[test]
fn who_forks_without_end_is_ended() {
    let server = Server::in_a_hurry();
    let mut client = Client::new(server.socket());
    // Three chains of processes, each of which lives only as long as it takes to fork the next.
    let fork =
        "perl -e '$SIG{HUP} = $SIG{TERM} = sub {}; fork; fork; $| = 1; print \"ready\\n\"; while (1) { exit if fork }'";
    client.start(remote(&format!("{fork} & {fork}; wait")));
    client.until("ready\n");
    drop(client);
    server.cgroup.wait_until_empty("job-1");
}

#[test]
fn closing_a_terminal_ends_the_shell_and_its_jobs_but_not_what_it_has_let_go() {
    let server = Server::in_a_hurry();
    let mut client = Client::new(server.socket());
    let env = vec!["PS1=ready> ".into(), "HISTFILE=".into(), "TERM=dumb".into()];
    let bash = command(&["bash", "--norc", "--noprofile", "-i"]);
    let shell_pid = client.start(Exec { env, on_close: OnClose::Hangup, ..on_terminal(bash) });
    client.until("ready> ");
    let lines = [
        "sh -c 'echo back$((0)) $$; exec sleep 1000' &",
        "sh -c 'echo free$((0)) $$; exec sleep 1000' & disown",
        "nohup sh -c 'echo nohup$((0)) $$ > /dev/tty; exec sleep 1000' > /dev/null &",
        "setsid sh -c 'echo left$((0)) $$; exec sleep 1000' &",
    ];
    let words = ["back0", "free0", "nohup0", "left0"];
    let mut seen = String::new();
    for (line, word) in lines.iter().zip(words) {
        client.input(format!("{line}\n").as_bytes());
        seen.push_str(&until_all(&mut client, &[word]));
    }
    let stubborn = format!("{}\n", STUBBORN.replace("stubborn ", "fore\" . \"ground "));
    client.input(stubborn.as_bytes());
    seen.push_str(&until_all(&mut client, &["foreground"]));
    drop(client);
    wait_for_process_end(shell_pid);
    wait_for_process_end(number(&seen, "back0"));
    wait_for_process_end(number(&seen, "foreground"));
    for word in ["free0", "nohup0", "left0"] {
        let pid = number(&seen, word);
        assert!(is_alive(pid), "{word} was ended");
        assert_eq!(run(server.socket(), shell(&format!("kill {pid}"))).exit.code, 0);
    }
    server.cgroup.wait_until_empty("job-1");
}

#[test]
fn a_leader_that_ignores_its_terminals_end_keeps_running_and_one_that_catches_it_does_not() {
    let server = Server::in_a_hurry();
    let mut client = Client::new(server.socket());
    let exec = Exec { on_close: OnClose::Hangup, ..on_terminal(shell(STUBBORN)) };
    client.start(exec);
    client.until("stubborn");
    drop(client);
    server.cgroup.wait_until_empty("job-1");

    let mut client = Client::new(server.socket());
    let script = "trap '' HUP; perl -e '$SIG{TERM} = sub {}; $| = 1; print \"stays $$\\n\"; sleep 1000 while 1' & perl -e '$SIG{HUP} = sub {}; $| = 1; print \"goes $$\\n\"; sleep 1000 while 1' & wait";
    let first = client.start(Exec { on_close: OnClose::Hangup, ..on_terminal(shell(script)) });
    let seen = until_all(&mut client, &["stays", "goes"]);
    drop(client);
    wait_for_process_end(number(&seen, "goes"));
    assert!(is_alive(number(&seen, "stays")) && is_alive(first));
}

#[test]
fn without_cgroups_a_session_is_hung_up_on_as_well() {
    let server = Server::without_cgroup();
    let mut client = Client::new(server.socket());
    client.start(remote("sh -c 'echo plain $$; exec sleep 1000' & wait"));
    let seen = until_all(&mut client, &["plain"]);
    drop(client);
    wait_for_process_end(number(&seen, "plain"));
}
