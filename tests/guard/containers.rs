//! Containers of runc and crun: the runtime outside, the container below the guarded cgroup.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::need_root;
use crate::stage::{free_ports, policy, start};
use crate::support::Place;

/// A bundle with busybox in it. `None` if the runtime is not installed.
fn bundle(runtime: &str, place: &Place) -> Option<PathBuf> {
    let found =
        |name: &str| std::env::split_paths(&std::env::var_os("PATH")?).map(|p| p.join(name)).find(|p| p.exists());
    let (Some(_), Some(busybox)) = (found(runtime), found("busybox")) else {
        println!("SKIPPED containers_of_{runtime}: {runtime} or busybox is not installed");
        return None;
    };
    let bundle = place.dir.path().join("bundle");
    let root = bundle.join("rootfs");
    for folder in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new(runtime).arg("spec").current_dir(&bundle).status().unwrap().success());
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = json!(false);
    let name = place.path.file_name().unwrap().to_str().unwrap();
    spec["linux"]["cgroupsPath"] = json!(format!("/{name}/container"));
    // A kernel without seccomp has none.
    spec["linux"].as_object_mut().unwrap().remove("seccomp");
    fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
    Some(bundle)
}

/// What the container runs.
fn set_arguments(bundle: &Path, arguments: &[&str]) {
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["args"] = json!(arguments);
    fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
}

/// Where version 1 is mounted too, runc makes the parent folder in each of its hierarchies, and leaves it there.
struct Parents(String);

impl Drop for Parents {
    fn drop(&mut self) {
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.0));
        }
    }
}

struct Runtime<'a> {
    name: &'a str,
    state: PathBuf,
    bundle: &'a Path,
}

impl Runtime<'_> {
    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.name);
        command.arg("--root").arg(&self.state).args(arguments).current_dir(self.bundle);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {} {}", text(&output.stdout), text(&output.stderr));
        output
    }
}

fn containers(name: &str) {
    let place = Place::new();
    let _parents = Parents(place.path.file_name().unwrap().to_str().unwrap().to_owned());
    let [port, other] = free_ports();
    let Some(bundle) = bundle(name, &place) else { return };
    let runtime = Runtime { name, state: place.dir.path().join("state"), bundle: &bundle };
    // Does it run at all, on this machine?
    set_arguments(&bundle, &["/bin/busybox", "true"]);
    let trial = Command::new(name)
        .arg("--root")
        .arg(&runtime.state)
        .args(["run", "trial"])
        .current_dir(&bundle)
        .output()
        .unwrap();
    if !trial.status.success() {
        let why = String::from_utf8_lossy(&trial.stderr).lines().last().unwrap_or_default().to_owned();
        return println!("SKIPPED containers_of_{name}: it runs no container here, without a guard either: {why}");
    }
    // With hooks, where this machine has them: then nobody inside may trace, or write to a process's memory.
    let (mut agent, guard) = start(&place, &policy(&place, port, "[tls]\n[guard]"), &[]);
    let script = format!(
        "/bin/busybox timeout 5 /bin/busybox nc -l -p {other} 2>&1; \
         /bin/busybox timeout 0.3 /bin/busybox nc -l -p {port} </dev/null || echo done $?"
    );
    set_arguments(&bundle, &["/bin/busybox", "sh", "-c", &script]);
    let output = runtime.call(&["run", "one"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("done 143"), "the policy's port can be listened on: {said}");
    assert!(said.contains("nc: bind: Operation not permitted"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    // A life in steps, and a process added.
    set_arguments(&bundle, &["/bin/busybox", "sleep", "60"]);
    // What a container inherits stays open: no pipe to wait for.
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new(name);
        command.arg("--root").arg(&runtime.state).args(arguments).current_dir(&bundle);
        let none = std::process::Stdio::null;
        assert!(command.stdin(none()).stdout(none()).status().unwrap().success(), "{arguments:?}");
    };
    quiet(&["create", "two"]);
    quiet(&["start", "two"]);
    runtime.call(&["exec", "two", "/bin/busybox", "true"]);
    quiet(&["kill", "two", "KILL"]);
    crate::support::eventually("stopped", || {
        String::from_utf8_lossy(&runtime.call(&["state", "two"]).stdout).contains("\"stopped\"")
    });
    quiet(&["delete", "two"]);
    let first = agent.event().unwrap();
    assert_eq!((&first["type"], &first["cause"]), (&json!("guard"), &json!("undeclared_listen")), "{guard}");
    let (status, rest) = {
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        agent.wait()
    };
    assert!(status.success());
    assert!(!rest.contains("\"type\":\"guard\""), "nothing else was in the way: {rest}");
}

#[test]
fn containers_of_runc_start_and_stop() {
    need_root!();
    containers("runc");
}

#[test]
fn containers_of_crun_start_and_stop() {
    need_root!();
    containers("crun");
}
