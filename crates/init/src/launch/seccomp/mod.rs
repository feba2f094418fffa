//! The system calls that a box may make: an allow-list like Docker's default for a container without `CAP_SYS_ADMIN`.
//!
//! Two filters, because PID 1 needs two calls that nothing else in the box may make:
//! * [`for_box`] covers PID 1 and all that comes from it. It still lets `clone3` and `unshare` through: PID 1 starts each job straight
//!   into its own cgroup with `clone3`, whose flags a filter cannot see, and each job enters its own cgroup namespace.
//! * [`FOR_JOBS`] is added by each job's process before it becomes the user's program, and takes the two away. `clone3` answers
//!   `ENOSYS`, at which C libraries fall back to `clone`, whose flags the first filter does check.
//!
//! Calls newer than this list answer `ENOSYS` as well, so that programs fall back instead of giving up. Programs for another
//! architecture (32-bit x86 included) are killed.
//!
//! The filter is a binary search over ranges of call numbers. Compilers of filters that we know make one comparison for each call in
//! turn, and the kernel, which tries every call when a filter is installed, then takes 0.8 ms for it instead of 0.1 ms.

use libc::{c_long, sock_filter};

mod calls;

use calls::{ALLOWED, ALLOWED_HERE};

/// The newest system call that was considered when the list was made (`file_setattr`).
const NEWEST: u32 = 469;

/// The namespace flags of `clone`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// Linux and SVr4 personalities, with and without a 32-bit uname, and the question which one it is.
const PERSONALITIES: &[u32] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Unix, IPv4, IPv6, netlink, packet. Others only add kernel code to attack (vsock leads to the host, AF_ALG to its crypto).
const SOCKET_FAMILIES: &[u32] = &[1, 2, 10, 16, 17];

/// `AUDIT_ARCH_…`
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Options of packet sockets (`SOL_PACKET`) that take memory which no cgroup counts: `PACKET_RX_RING` and `PACKET_TX_RING`. Root of a
/// box could take all of the host's with them.
const PACKET_OPTIONS: u32 = 263;
const PACKET_RINGS: &[u32] = &[5, 13];

/// Commands to terminals that nobody in a box needs: `TIOCSTI` types into another's terminal, `TIOCLINUX` pastes into the console of the
/// host's, and `TIOCSETD` has the kernel load drivers for modems that have been broken into before (CVE-2017-2636, CVE-2023-6546).
const TERMINAL_COMMANDS: &[u32] = &[0x5412, 0x541c, 0x5423];

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Where `struct seccomp_data` has the call's number, the architecture and the lower half of the first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
/// The same of the two arguments after it.
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

const fn refuse(errno: i32) -> u32 {
    0x0005_0000 | errno.cast_unsigned()
}

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "call numbers are small and positive")]
const fn number(call: c_long) -> u32 {
    call as u32
}

/// What a job's process adds to [`for_box`].
pub const FOR_JOBS: [sock_filter; 6] = [
    step(LOAD, NUMBER, 0, 0),
    step(EQUAL, number(libc::SYS_clone3), 0, 1),
    step(RETURN, refuse(libc::ENOSYS), 0, 0),
    step(EQUAL, number(libc::SYS_unshare), 0, 1),
    step(RETURN, refuse(libc::EPERM), 0, 0),
    step(RETURN, ALLOW, 0, 0),
];

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Refused,
    /// Allowed when the first argument has none of these bits.
    Without(u32),
    /// Allowed when the first argument is one of these.
    With(&'static [u32]),
    /// Allowed unless the second argument is one of these.
    Unless(&'static [u32]),
    /// Allowed unless the second argument is this and the third is one of these.
    Except(u32, &'static [u32]),
}

/// The filter of a whole box.
pub fn for_box() -> Vec<sock_filter> {
    let mut verdicts = [Verdict::Refused; NEWEST as usize + 1];
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        verdicts[number(*call) as usize] = Verdict::Allowed;
    }
    verdicts[number(libc::SYS_clone) as usize] = Verdict::Without(NEW_NAMESPACES);
    verdicts[number(libc::SYS_personality) as usize] = Verdict::With(PERSONALITIES);
    verdicts[number(libc::SYS_socket) as usize] = Verdict::With(SOCKET_FAMILIES);
    // The kernel looks at the lower half of a command only, and so do we.
    verdicts[number(libc::SYS_ioctl) as usize] = Verdict::Unless(TERMINAL_COMMANDS);
    verdicts[number(libc::SYS_setsockopt) as usize] = Verdict::Except(PACKET_OPTIONS, PACKET_RINGS);
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for (call, verdict) in (0..).zip(verdicts) {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((call, verdict));
        }
    }
    let mut filter = vec![
        step(LOAD, ARCH, 0, 0),
        step(EQUAL, ARCHITECTURE, 1, 0),
        step(RETURN, KILL, 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(GREATER, NEWEST, 0, 1),
        step(RETURN, refuse(libc::ENOSYS), 0, 0),
    ];
    filter.extend(search(&ranges));
    filter
}

/// The steps that find the range which the loaded number is in, by its first call, and judge it.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let [(first, verdict), ..] = upper else { return Vec::new() };
    if lower.is_empty() {
        return judge(*verdict);
    }
    let (lower, upper) = (search(lower), search(upper));
    let mut steps = match u8::try_from(lower.len()) {
        Ok(skip) => vec![step(AT_LEAST, *first, skip, 0)],
        // Conditional jumps reach 255 steps.
        Err(_) => {
            let skip = u32::try_from(lower.len()).unwrap_or(u32::MAX);
            vec![step(AT_LEAST, *first, 0, 1), step(JUMP, skip, 0, 0)]
        }
    };
    steps.extend(lower);
    steps.extend(upper);
    steps
}

fn judge(verdict: Verdict) -> Vec<sock_filter> {
    let (allow, refusal) = (step(RETURN, ALLOW, 0, 0), step(RETURN, refuse(libc::EPERM), 0, 0));
    let argument = step(LOAD, FIRST_ARGUMENT, 0, 0);
    match verdict {
        Verdict::Allowed => vec![allow],
        Verdict::Refused => vec![refusal],
        Verdict::Without(bits) => vec![argument, step(ANY_BIT, bits, 1, 0), allow, refusal],
        Verdict::With(values) => {
            let tests = values.iter().flat_map(|value| [step(EQUAL, *value, 0, 1), allow]);
            [argument].into_iter().chain(tests).chain([refusal]).collect()
        }
        Verdict::Unless(values) => {
            let tests = values.iter().flat_map(|value| [step(EQUAL, *value, 0, 1), refusal]);
            [step(LOAD, SECOND_ARGUMENT, 0, 0)].into_iter().chain(tests).chain([allow]).collect()
        }
        Verdict::Except(second, thirds) => {
            let level = [step(LOAD, SECOND_ARGUMENT, 0, 0), step(EQUAL, second, 1, 0), allow];
            let tests = thirds.iter().flat_map(|third| [step(EQUAL, *third, 0, 1), refusal]);
            level.into_iter().chain([step(LOAD, THIRD_ARGUMENT, 0, 0)]).chain(tests).chain([allow]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(filter: &[sock_filter], arch: u32, call: u32, argument: u32) -> u32 {
        run_with(filter, arch, call, [argument, 0, 0])
    }

    fn run_with(filter: &[sock_filter], arch: u32, call: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = filter[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    let [first, second, third] = arguments;
                    let arguments = [(FIRST_ARGUMENT, first), (SECOND_ARGUMENT, second), (THIRD_ARGUMENT, third)];
                    loaded = [(NUMBER, call), (ARCH, arch)]
                        .into_iter()
                        .chain(arguments)
                        .find(|(offset, _)| *offset == step.k)
                        .expect("a known field")
                        .1
                }
                JUMP => at += step.k as usize,
                EQUAL => at += jump(loaded == step.k),
                GREATER => at += jump(loaded > step.k),
                AT_LEAST => at += jump(loaded >= step.k),
                ANY_BIT => at += jump(loaded & step.k != 0),
                RETURN => return step.k,
                other => panic!("unknown step {other:#x}"),
            }
        }
    }

    #[test]
    fn exactly_the_listed_calls_are_allowed() {
        let filter = for_box();
        assert!(filter.len() < 1000, "{} steps: the kernel tries each call at install", filter.len());
        let special = [libc::SYS_clone, libc::SYS_personality, libc::SYS_socket].map(number);
        for call in (0..=NEWEST).filter(|call| !special.contains(call)) {
            let listed = ALLOWED.iter().chain(ALLOWED_HERE).any(|allowed| number(*allowed) == call);
            let expected = if listed { ALLOW } else { refuse(libc::EPERM) };
            assert_eq!(run(&filter, ARCHITECTURE, call, 0), expected, "system call {call}");
        }
        for unknown in [NEWEST + 1, 0x4000_0000 | number(libc::SYS_read), u32::MAX] {
            assert_eq!(run(&filter, ARCHITECTURE, unknown, 0), refuse(libc::ENOSYS));
        }
        assert_eq!(run(&filter, 0x4000_0003, number(libc::SYS_read), 0), KILL);
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let filter = for_box();
        let call = |call, argument| run(&filter, ARCHITECTURE, number(call), argument) == ALLOW;
        assert!(call(libc::SYS_clone, libc::SIGCHLD.cast_unsigned()));
        for flag in
            [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID, libc::CLONE_NEWCGROUP]
        {
            assert!(!call(libc::SYS_clone, (flag | libc::SIGCHLD).cast_unsigned()));
        }
        assert!(
            call(libc::SYS_socket, libc::AF_INET.cast_unsigned())
                && !call(libc::SYS_socket, libc::AF_VSOCK.cast_unsigned())
        );
        assert!(call(libc::SYS_personality, 0) && !call(libc::SYS_personality, 0x0040_0000));
        assert_eq!(run(&FOR_JOBS, ARCHITECTURE, number(libc::SYS_clone3), 0), refuse(libc::ENOSYS));
        assert_eq!(run(&FOR_JOBS, ARCHITECTURE, number(libc::SYS_unshare), 0), refuse(libc::EPERM));
        assert_eq!(run(&FOR_JOBS, ARCHITECTURE, number(libc::SYS_execve), 0), ALLOW);
    }

    #[test]
    fn packet_sockets_get_no_rings_of_memory_that_nobody_counts() {
        let filter = for_box();
        let set =
            |level, option| run_with(&filter, ARCHITECTURE, number(libc::SYS_setsockopt), [3, level, option]) == ALLOW;
        let level = libc::SOL_PACKET.cast_unsigned();
        assert!(!set(level, libc::PACKET_RX_RING.cast_unsigned()) && !set(level, libc::PACKET_TX_RING.cast_unsigned()));
        assert!(set(level, libc::PACKET_ADD_MEMBERSHIP.cast_unsigned()));
        assert!(set(libc::SOL_SOCKET.cast_unsigned(), 5) && set(libc::IPPROTO_TCP.cast_unsigned(), 13));
    }

    #[test]
    fn terminals_take_no_commands_that_reach_beyond_them() {
        let filter = for_box();
        let asks = |command| run_with(&filter, ARCHITECTURE, number(libc::SYS_ioctl), [0, command, 0]) == ALLOW;
        for refused in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD] {
            assert!(!asks(u32::try_from(refused).expect("32 bits")));
        }
        for needed in
            [libc::TCGETS, libc::TIOCSCTTY, libc::TIOCSWINSZ, libc::TIOCGPTPEER, libc::TIOCSPGRP, libc::FIONBIO]
        {
            assert!(asks(u32::try_from(needed).expect("32 bits")));
        }
    }

    #[test]
    fn what_leads_out_of_a_box_is_not_listed() {
        for call in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_mount_setattr,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_open_by_handle_at,
            libc::SYS_fanotify_init,
            libc::SYS_quotactl,
            libc::SYS_syslog,
            libc::SYS_acct,
            libc::SYS_kcmp,
            467, // open_tree_attr
        ] {
            assert!(!ALLOWED.contains(&call) && !ALLOWED_HERE.contains(&call), "system call {call}");
        }
    }
}
