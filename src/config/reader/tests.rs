//! Scratch.
use super::*;
const BROKEN: &str = r#"
[intake]
listen = ["127.0.0.1:8081", "x"]
max_bdy = "1MiB"
max_in_flight = "1KiB"
success_status = 201
max_connections = 0
[admin]
token = "abc"
[[source]]
name = "Genesys"
to = ["crmm", 3]
[[destination]]
name = "crm"
timeout = "10"
concurrency = { max = 0, adaptive = true }
retry = { base = "1h", statuses = ["2xx", 200, "503"], factor = 0.5, max = "2d" }
auth = { kind = "oauth2", token_url = "x" }
rate = "5/s"
url = "http://u:p@x"
[[destination]]
name = "crm"
auth = { kind = "basic", user = "a:b", password = { file = "x", env = "Y" } }
timeout = 5
[dlq]
evict = 1
[stor]
"#;
#[test]
fn show() {
    println!("{}", read(BROKEN, Path::new("holdline.toml")).unwrap_err());
    for t in [
        "[a\nb = 10s\nc = \nd = \"x\nx = 1 2\n",
        "[source]\n[source]\nname=1\nname=2",
        "timeout = 10s",
        "",
        "a = \"x\n[b]",
        "source = 3\nalert=[1]\ndestination = []",
        "source = [3]\n[[destination]]\nname='a'\n[destination.retry]\nfacter=3\n[intake]\n'a b'.c=3",
    ] {
        println!("--- {t}");
        println!("{}", read(t, Path::new("holdline.toml")).unwrap_err());
    }
}
