//! What a person sees first in a terminal.

use boxyard_engine::Limits;
use boxyard_proto::BoxId;

const MIB: u64 = 1024 * 1024;
const GB: u64 = 1_000_000_000;
const GIB: u64 = 1024 * MIB;

/// What there is to say about a box.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) id: &'a BoxId,
    pub(super) name: Option<&'a str>,
    pub(super) runtime: &'a str,
    pub(super) size: &'a str,
    pub(super) limits: Limits,
}

/// The message of the day, with the line ends of a raw terminal.
pub(super) fn text(facts: &Facts<'_>) -> String {
    let Facts { id, name, runtime, size, limits } = facts;
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let (cpus, memory, disk) = (cpus(limits.cpu_millis), bytes(limits.memory_bytes), bytes(limits.disk_bytes));
    format!(
        "Box {id}{name}: {runtime}, size {size} ({cpus}, {memory} of memory, {disk} of disk).\r\n\
         Files in /workspace/home stay for as long as the box does. What you start ends when you log out;\r\n\
         what shall go on needs tmux, setsid or nohup.\r\n\r\n"
    )
}

fn cpus(millis: u32) -> String {
    let whole = millis / 1000;
    match (whole, millis % 1000) {
        (1, 0) => "1 CPU".into(),
        (_, 0) => format!("{whole} CPUs"),
        (_, rest) => format!("{} CPUs", format!("{whole}.{rest:03}").trim_end_matches('0')),
    }
}

/// In the unit that gives a whole number, where there is one.
fn bytes(bytes: u64) -> String {
    match bytes {
        _ if bytes >= GIB && bytes.is_multiple_of(GIB) => format!("{} GiB", bytes / GIB),
        _ if bytes >= GB && bytes.is_multiple_of(GB / 10) => {
            let tenths = bytes / (GB / 10);
            if tenths.is_multiple_of(10) {
                format!("{} GB", tenths / 10)
            } else {
                format!("{}.{} GB", tenths / 10, tenths % 10)
            }
        }
        _ => format!("{} MiB", bytes / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_box_and_its_limits_in_lines_for_a_raw_terminal() {
        let limits = Limits { cpu_millis: 2000, memory_bytes: 4 * GB, pids: 1024, disk_bytes: 5 * GIB };
        let id: BoxId = BoxId::from_entropy(7);
        let text = text(&Facts { id: &id, name: Some("web"), runtime: "node", size: "small", limits });
        let first = format!("Box {id} (web): node, size small (2 CPUs, 4 GB of memory, 5 GiB of disk).\r\n");
        assert!(text.starts_with(&first), "{text}");
        assert!(text.contains("tmux") && text.lines().count() <= 5);
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    }

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!([cpus(1000), cpus(500), cpus(2250), cpus(8000)], ["1 CPU", "0.5 CPUs", "2.25 CPUs", "8 CPUs"]);
        assert_eq!(
            [bytes(4 * GB), bytes(GB + GB / 2), bytes(512 * MIB), bytes(2 * GIB)],
            ["4 GB", "1.5 GB", "512 MiB", "2 GiB"]
        );
    }
}
