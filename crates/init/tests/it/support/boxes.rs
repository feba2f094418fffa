//! Real boxes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boxyard_proto::BoxId;
use boxyard_proto::launch::{Launch, Launched, UIDS_PER_BOX};

use super::cgroup::Cgroup;
use super::image::image;
use super::{PROGRAM, folder, unique};

/// A box that can be launched. Dropping it ends it and removes everything.
#[derive(Debug)]
pub struct TestBox {
    /// What is asked of the launcher; to be changed before [`TestBox::launch`].
    pub plan: Launch,
    /// Its own cgroup.
    pub cgroup: Cgroup,
    v1: Vec<PathBuf>,
    folder: PathBuf,
    /// The network namespace that the host's end of its network is in.
    netns: Option<String>,
}

impl TestBox {
    /// A box with the common image and no network.
    pub fn new() -> Self {
        let number = unique();
        let folder = folder("box");
        for name in ["upper", "work"] {
            fs::create_dir(folder.join(name)).expect("make a folder");
        }
        let cgroup = Cgroup::new(&format!("box-{}-{number}", std::process::id()));
        let plan = Launch {
            disk: None,
            id: BoxId::from_entropy(u64::from(number)),
            uid_start: UIDS_PER_BOX * (2000 + number),
            layers: vec![image()],
            upper: folder.join("upper"),
            work: folder.join("work"),
            socket: folder.join("s"),
            cgroup: cgroup.0.clone(),
            cgroups_v1: Vec::new(),
            controllers: Vec::new(),
            network: None,
            files: Vec::new(),
            env: vec!["PATH=/usr/bin".into(), "BASE=from the plan".into()],
            open_files: 1000,
        };
        Self { plan, cgroup, v1: Vec::new(), folder, netns: None }
    }

    /// A launched box.
    pub fn launched() -> Self {
        let made = Self::new();
        made.launch().expect("launch a box");
        made
    }

    /// Puts it into a cgroup of the v1 hierarchy `controller` too; returns its folder, or `None` where v2 has that controller.
    pub fn in_v1(&mut self, controller: &str) -> Option<PathBuf> {
        let hierarchy = Path::new("/sys/fs/cgroup").join(controller);
        hierarchy.join("cgroup.procs").exists().then(|| {
            let path = hierarchy.join(self.cgroup.0.file_name().expect("a name"));
            fs::create_dir(&path).expect("make a v1 cgroup");
            self.v1.push(path.clone());
            self.plan.cgroups_v1.push(path.clone());
            path
        })
    }

    /// Gives the host's side of its network a namespace of its own, with `gateway` as an address of the host.
    pub fn in_netns(&mut self, gateway: &str) -> String {
        let name = format!("boxyard-{}-{}", std::process::id(), unique());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "address", "add", &format!("{gateway}/32"), "dev", "lo"]);
        self.netns = Some(name.clone());
        name
    }

    /// Launches it; returns its PID 1 or what failed.
    pub fn launch(&self) -> Result<u32, (String, String)> {
        let plan = serde_json::to_vec(&self.plan).expect("write the plan");
        let mut command = match &self.netns {
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(PROGRAM);
                command
            }
            None => Command::new(PROGRAM),
        };
        let mut launcher = command
            .arg("launch")
            .env("SECRET_OF_THE_HOST", "hush")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the launcher");
        launcher.stdin.take().expect("its input").write_all(&plan).expect("give it the plan");
        let output = launcher.wait_with_output().expect("wait for the launcher");
        let answer = serde_json::from_slice(&output.stdout).expect("the launcher answers");
        match answer {
            Launched::Ready { pid } => {
                assert!(output.status.success());
                Ok(pid)
            }
            Launched::Failed { doing, error, .. } => {
                assert_eq!(output.status.code(), Some(1));
                Err((doing, error))
            }
        }
    }

    /// Ends everything in it and waits until it is gone; the disk stays.
    pub fn end(&self) {
        fs::write(self.cgroup.0.join("cgroup.kill"), "1").expect("end the box");
        self.cgroup.wait_until_empty("");
        for leaf in self.cgroup.leaves() {
            fs::remove_dir(self.cgroup.0.join(leaf)).expect("remove a leaf");
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.plan.socket
    }
}

impl Drop for TestBox {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.0.join("cgroup.kill"), "1");
        self.cgroup.wait_until_empty("");
        for path in &self.v1 {
            let _ = fs::remove_dir(path);
        }
        if let Some(name) = &self.netns {
            ip(&["netns", "delete", name]);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs `ip`; it must succeed. Returns its output.
pub fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("run ip");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || std::thread::panicking(), "ip {arguments:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
