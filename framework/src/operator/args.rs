//! The arguments of an operator's program: few enough to be read without a library.

use std::{net::SocketAddr, path::PathBuf};

/// What the program is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Run(Flags),
    /// Print the description; for tools, and not in the help.
    Describe,
    Help,
}

/// How it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flags {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) watch_namespace: Option<String>,
    pub(super) leader_elect: bool,
    pub(super) admin: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) qps: Option<f64>,
    pub(super) burst: Option<u32>,
}

/// What is sent at once where only the rate was said; client-go's.
const BURST: u32 = 10;
/// The rate where only the burst was said; client-go's.
const QPS: f64 = 5.0;

impl Flags {
    /// The limit on requests, if there is one: what is said here comes before what the code says.
    pub(super) fn limit(&self, code: Option<(f64, u32)>) -> Option<(f64, u32)> {
        if self.qps.is_none() && self.burst.is_none() {
            return code;
        }
        let (qps, burst) = code.unwrap_or((QPS, BURST));
        Some((self.qps.unwrap_or(qps), self.burst.unwrap_or(burst)))
    }
}

/// What `--help` prints.
pub(super) fn help(name: &str) -> String {
    format!(
        "Usage: {name} [run] [FLAGS]

  --kubeconfig FILE  the cluster; by default the environment's, or the one that the pod runs in
  --context NAME     a context of the kubeconfig
  --leader-elect     work only while holding the lease {name}
  --namespace NAME   where the lease is; by default the namespace of the pod or of the context
  --watch-namespace NAMES
                     watch these namespaces, as in a,b; by default those of WATCH_NAMESPACE, and all if that is not set
  --admin ADDRESS    serve /healthz, /readyz, /metrics, /failing and /diagnostics, such as on 0.0.0.0:8080
  --metrics ADDRESS  serve protected metrics, such as on 0.0.0.0:8443; --admin shows health alone where there are any
  --kube-api-qps N   send at most N requests a second to the API server; by default as many as it takes
  --kube-api-burst N
                     and N at once after a rest
  -h, --help         print this
"
    )
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// A sentence that says which argument is wrong.
pub(super) fn parse(args: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut args = args.into_iter().peekable();
    let describe = match args.peek().map(String::as_str) {
        Some("run") => args.next().is_none(),
        Some("describe") => args.next().is_some(),
        _ => false,
    };
    let mut flags = Flags::default();
    while let Some(arg) = args.next() {
        let (flag, given) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || given.clone().or_else(|| args.next()).ok_or(format!("{flag} needs a value"));
        match flag {
            "-h" | "--help" => return Ok(Command::Help),
            _ if describe => return Err(format!("describe takes no argument, and {arg:?} is one")),
            "--kubeconfig" => flags.kubeconfig = Some(value()?.into()),
            "--context" => flags.context = Some(value()?),
            "--namespace" => flags.namespace = Some(value()?),
            "--watch-namespace" => flags.watch_namespace = Some(value()?),
            "--admin" => flags.admin = Some(address(flag, &value()?, 8080)?),
            "--metrics" => flags.metrics = Some(address(flag, &value()?, 8443)?),
            "--kube-api-qps" => flags.qps = Some(above_zero(flag, &value()?)?),
            "--kube-api-burst" => flags.burst = Some(above_zero(flag, &value()?)?),
            "--leader-elect" => flags.leader_elect = yes(given.as_deref())?,
            _ => return Err(format!("{arg:?} is no argument of this program; --help lists them")),
        }
    }
    Ok(if describe { Command::Describe } else { Command::Run(flags) })
}

fn address(flag: &str, text: &str, port: u16) -> Result<SocketAddr, String> {
    let wrong = |_| format!("{flag} needs an address such as 0.0.0.0:{port}, and {text:?} is none");
    text.parse().map_err(wrong)
}

fn above_zero<N: std::str::FromStr + PartialOrd + Default>(flag: &str, text: &str) -> Result<N, String> {
    let number = text.parse::<N>().ok().filter(|number| *number > N::default());
    number.ok_or_else(|| format!("{flag} needs a number above 0, and {text:?} is none"))
}

fn yes(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(format!("--leader-elect is true or false, and not {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments() {
        let flags = Flags {
            kubeconfig: Some("a/b".into()),
            namespace: Some("sea".into()),
            watch_namespace: Some("a,b".into()),
            leader_elect: true,
            admin: Some(([127, 0, 0, 1], 80).into()),
            metrics: Some(([127, 0, 0, 1], 81).into()),
            ..Flags::default()
        };
        let both = [
            "--kubeconfig a/b --namespace sea --watch-namespace a,b --admin 127.0.0.1:80 --metrics 127.0.0.1:81 --leader-elect",
            "--kubeconfig=a/b --namespace=sea --watch-namespace=a,b --admin=127.0.0.1:80 --metrics=127.0.0.1:81 --leader-elect=true",
        ];
        for text in both {
            assert_eq!(parsed(&format!("run {text}")), parsed(text));
            assert_eq!(parsed(text), Ok(Command::Run(flags.clone())));
        }
        assert_eq!(parsed(""), Ok(Command::Run(Flags::default())));
        assert_eq!(parsed("describe"), Ok(Command::Describe));
        assert_eq!(parsed("run --help"), Ok(Command::Help));
    }

    #[test]
    fn a_limit_is_of_the_arguments_before_it_is_of_the_code() {
        let limit = |text: &str, code| match parsed(text).unwrap() {
            Command::Run(flags) => flags.limit(code),
            _ => None,
        };
        assert_eq!(limit("", None), None);
        assert_eq!(limit("", Some((1.5, 2))), Some((1.5, 2)));
        assert_eq!(limit("--kube-api-qps 20", None), Some((20.0, 10)));
        assert_eq!(limit("--kube-api-burst 30", Some((1.5, 2))), Some((1.5, 30)));
    }

    #[test]
    fn a_wrong_argument_is_named() {
        let table = [
            ("--admin 80", "--admin needs an address such as 0.0.0.0:8080, and \"80\" is none"),
            ("--kube-api-qps 0", "--kube-api-qps needs a number above 0, and \"0\" is none"),
            ("--kube-api-burst=-3", "--kube-api-burst needs a number above 0, and \"-3\" is none"),
            ("--metrics=x", "--metrics needs an address such as 0.0.0.0:8443, and \"x\" is none"),
            ("--kubeconfig", "--kubeconfig needs a value"),
            ("--leader-elect=perhaps", "--leader-elect is true or false, and not \"perhaps\""),
            ("--frobnicate", "\"--frobnicate\" is no argument of this program; --help lists them"),
            ("walk", "\"walk\" is no argument of this program; --help lists them"),
            ("describe --admin=1", "describe takes no argument, and \"--admin=1\" is one"),
        ];
        for (text, sentence) in table {
            assert_eq!(parsed(text), Err(sentence.to_owned()), "{text}");
        }
    }
}
