//! Clients in other languages that the transcripts run: installed once, into a folder of the build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::host;

/// Where the clients' programs and the lists of what they need are.
pub(crate) fn sources() -> PathBuf {
    host::root().join("tests/clients")
}

/// The installed clients.
pub(crate) struct Clients {
    dir: PathBuf,
}

impl Clients {
    /// Installs what is not installed yet, or was in another version.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let dir = host::target().join("clients");
        fs::create_dir_all(&dir)?;
        let clients = Self { dir };
        clients.once("requirements.txt", |dir| {
            println!("Installing clients in Python");
            let quiet = |program: &Path, args: &[&str]| {
                host::run(Command::new(program).args(args).stdout(Stdio::null()))
            };
            quiet(
                Path::new("/usr/bin/python3"),
                &["-m", "venv", "--clear", &dir.join("python").to_string_lossy()],
            )?;
            let list = sources().join("requirements.txt");
            quiet(&dir.join("python/bin/pip"), &["install", "--quiet", "-r", &list.to_string_lossy()])
        })?;
        clients.once("package.json", |dir| {
            println!("Installing clients in JavaScript");
            fs::copy(sources().join("package.json"), dir.join("package.json"))?;
            let mut npm = Command::new("npm");
            host::run(
                npm.args(["install", "--no-audit", "--no-fund", "--silent"])
                    .current_dir(dir)
                    .stdout(Stdio::null()),
            )
        })?;
        // Modules are looked for beside the program.
        fs::copy(sources().join("official.mjs"), clients.dir.join("official.mjs"))?;
        for program in ["official.py", "boats.py"] {
            fs::copy(sources().join(program), clients.dir.join(program))?;
        }
        Ok(clients)
    }

    /// Does `install` unless it was done for this very list.
    fn once(&self, list: &str, install: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let wanted = fs::read_to_string(sources().join(list)).with_context(|| list.to_owned())?;
        let mark = self.dir.join(format!("{list}.installed"));
        if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        install(&self.dir)
            .with_context(|| format!("what tests/clients/{list} names could not be installed"))?;
        Ok(fs::write(mark, wanted)?)
    }

    /// Where the clients' programs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where Python and what it runs are.
    pub(crate) fn programs(&self) -> PathBuf {
        self.dir.join("python/bin")
    }
}
