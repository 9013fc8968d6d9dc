//! Container images without a registry: assembled from programs of the host, and imported.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use ring::digest;
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command};

/// Where Debian's `busybox-static` puts its program.
pub const BUSYBOX: &str = "/bin/busybox";

/// Why an image could not be made or imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The static program is missing.
    #[error("{path} is needed to assemble an image ({source}): install busybox-static", path = path.display())]
    Busybox {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program, or a library of one, cannot be read.
    #[error("{path} is needed to assemble an image: {source}", path = path.display())]
    Program {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program's libraries could not be told.
    #[error("{path} cannot be packed: {why}", path = path.display())]
    Libraries {
        /// The program.
        path: PathBuf,
        /// What `ldd` said.
        why: String,
    },
    /// The archive could not be written.
    #[error("the image could not be assembled: {0}")]
    Archive(#[from] io::Error),
    /// The runtime did not take it.
    #[error("the image could not be imported: {0}")]
    Import(String),
}

/// An image to be: one layer of files and how to start it.
#[derive(Debug, Default)]
pub struct Builder {
    files: Vec<(String, Vec<u8>, u32)>,
    links: Vec<(String, String)>,
    dirs: Vec<(String, u32)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
}

impl Builder {
    /// An image of the static busybox with all its applets linked in `/bin`.
    ///
    /// # Errors
    /// [`ImageError::Busybox`].
    pub fn busybox(program: &Path) -> Result<Self, ImageError> {
        let bytes =
            fs::read(program).map_err(|source| ImageError::Busybox { path: program.to_owned(), source })?;
        let listed = std::process::Command::new(program).arg("--list").output();
        let listed = listed.map_err(|source| ImageError::Busybox { path: program.to_owned(), source })?;
        let applets = String::from_utf8_lossy(&listed.stdout);
        let links = applets
            .lines()
            .filter(|a| *a != "busybox")
            .map(|a| (format!("bin/{a}"), "/bin/busybox".to_owned()))
            .collect();
        let text = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec(), 0o644);
        Ok(Self {
            files: vec![
                ("bin/busybox".to_owned(), bytes, 0o755),
                text(
                    "etc/passwd",
                    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
                ),
                text("etc/group", "root:x:0:\nnobody:x:65534:\n"),
            ],
            links,
            dirs: vec![("root".to_owned(), 0o700), ("tmp".to_owned(), 0o1777), ("proc".to_owned(), 0o555)],
            command: vec!["/bin/sh".to_owned()],
            ..Self::default()
        })
    }

    /// An image that does nothing for ever: what holds a pod's namespaces.
    ///
    /// # Errors
    /// [`ImageError::Busybox`].
    pub fn pause(program: &Path) -> Result<Self, ImageError> {
        let bytes =
            fs::read(program).map_err(|source| ImageError::Busybox { path: program.to_owned(), source })?;
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Ok(Self {
            files: vec![("pause".to_owned(), bytes, 0o755)],
            links: vec![("sh".to_owned(), "/pause".to_owned()), ("sleep".to_owned(), "/pause".to_owned())],
            // The applet's name decides; `trap` ends it at once when the sandbox is stopped.
            entrypoint: own(&[
                "/sh",
                "-c",
                "trap 'exit 0' TERM INT; while :; do /sleep 2147483 & wait $!; done",
            ]),
            user: "65535:65535".to_owned(),
            ..Self::default()
        })
    }

    /// An image of a program of this host with the libraries that it needs, started as a user without rights.
    ///
    /// # Errors
    /// [`ImageError::Program`], [`ImageError::Libraries`].
    pub fn program(program: &Path) -> Result<Self, ImageError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| ImageError::Program { path: path.to_owned(), source })
        };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = vec![(name.clone(), read(program)?, 0o755)];
        for library in libraries(program)? {
            let bytes = read(Path::new(&library))?;
            files.push((library.trim_start_matches('/').to_owned(), bytes, 0o755));
        }
        Ok(Self {
            files,
            dirs: vec![("tmp".to_owned(), 0o1777)],
            entrypoint: vec![format!("/{name}")],
            user: "65532:65532".to_owned(),
            ..Self::default()
        })
    }

    /// The image as a `docker save` archive named `name`.
    ///
    /// # Errors
    /// [`ImageError::Archive`].
    pub fn archive(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.command, "User": self.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
        });
        let config = serde_json::to_vec(&config).expect("JSON into memory");
        let config_name = format!("{}.json", sha256(&config));
        let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);
        let mut archive = tar::Builder::new(Vec::new());
        file(&mut archive, "layer.tar", &layer, 0o644)?;
        file(&mut archive, &config_name, &config, 0o644)?;
        file(
            &mut archive,
            "manifest.json",
            &serde_json::to_vec(&manifest).expect("JSON into memory"),
            0o644,
        )?;
        Ok(archive.into_inner()?)
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, mode) in &self.dirs {
            let mut header = header(0, *mode);
            header.set_entry_type(tar::EntryType::Directory);
            layer.append_data(&mut header, format!("{path}/"), io::empty())?;
        }
        for (path, bytes, mode) in &self.files {
            file(&mut layer, path, bytes, *mode)?;
        }
        for (path, target) in &self.links {
            let mut header = header(0, 0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            layer.append_link(&mut header, path, target)?;
        }
        layer.into_inner()
    }
}

/// The files that the dynamic loader would load with a program, itself included; none for a static one.
fn libraries(program: &Path) -> Result<Vec<String>, ImageError> {
    let failed = |why: String| ImageError::Libraries { path: program.to_owned(), why };
    let told = std::process::Command::new("ldd").arg(program).output().map_err(|e| failed(e.to_string()))?;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    if !told.status.success() {
        let is_static = format!("{out}{err}").contains("not a dynamic executable");
        return if is_static { Ok(Vec::new()) } else { Err(failed(err.trim().to_owned())) };
    }
    listed(&out).map_err(failed)
}

/// The paths in what `ldd` prints.
fn listed(out: &str) -> Result<Vec<String>, String> {
    let mut paths = Vec::new();
    for line in out.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        let path = place.split(" (").next().unwrap_or_default();
        match path {
            "not found" => return Err(format!("{name} is not found")),
            path if path.starts_with('/') => paths.push(path.to_owned()),
            // What the kernel brings, and what is linked into the program.
            _ => {}
        }
    }
    Ok(paths)
}

fn file(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64, mode), path, bytes)
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Imports an archive into containerd, where the kubelet finds it.
///
/// # Errors
/// [`ImageError::Import`] with what `ctr` said.
pub async fn import(endpoint: &str, archive: &[u8]) -> Result<String, ImageError> {
    let failed = |e: &dyn std::fmt::Display| ImageError::Import(format!("{e}"));
    let socket = super::runtime_socket(endpoint).map_err(|e| failed(&e))?;
    let mut child = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import", "--digests", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(&format!("ctr, which comes with containerd, could not be started: {e}")))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(archive).await.map_err(|e| failed(&e))?;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let out = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t\
                   /lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(listed(out).unwrap(), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(listed("\tstatically linked\n").unwrap(), Vec::<String>::new());
        assert_eq!(listed("\tlibodd.so.1 => not found\n").unwrap_err(), "libodd.so.1 is not found");
    }

    #[test]
    fn a_program_is_packed_with_what_it_loads() {
        let builder = Builder::program(Path::new("/bin/sh")).unwrap();
        assert_eq!(builder.entrypoint, ["/sh"]);
        assert!(
            builder.files.iter().any(|(path, _, _)| path.contains("libc.so")),
            "the C library comes along"
        );
        let missing = Builder::program(Path::new("/no/such/program")).unwrap_err();
        assert!(missing.to_string().starts_with("/no/such/program"), "{missing}");
    }
}
