//! `holdline send`: posts bodies as a sender would, one after the other in their order.

pub mod client;

use crate::cli::admin_connection::{Form, Shared, address, reachable};
use crate::cli::{Failure, format, hint, output};
use crate::clock::Clock;
use crate::config::Settings;
use bytes::Bytes;
use client::{Answer, Credentials, Intake, Refusal, Taken};
use http::{HeaderMap, HeaderName, HeaderValue};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `holdline send`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files with bodies; - is the standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The source as which they are sent [default: the configuration's, where it has one, else default]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Where the intake is [default: the configuration's intake.listen, else http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    intake: Option<String>,
    /// Header sent with each body, such as 'Authorization: Bearer abc'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    shared: Shared,
}

const DEFAULT_INTAKE: &str = "http://127.0.0.1:8080";
/// How long one body is retried while the intake is busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(300);
/// Retries of a body that got no response.
const NO_ANSWER_MAX: u32 = 3;
/// Refusals that are explained; further ones are only counted.
const EXPLAINED: usize = 5;

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let value = value.trim().parse().map_err(|e| format!("{name}: {e}"))?;
    Ok((name.trim().parse().map_err(|e| format!("{name}: {e}"))?, value))
}

/// Posts everything and prints a summary; fails if a body was refused.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = args.shared.settings()?;
    let base = match (&args.intake, &settings) {
        (Some(given), _) => address(given)?,
        (None, Some(settings)) => listening(settings)?,
        (None, None) => DEFAULT_INTAKE.to_owned(),
    };
    let source = args.source.clone().unwrap_or_else(|| the_source(settings.as_ref()));
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let known = settings.as_ref().and_then(|s| s.sources.iter().find(|known| known.name == source));
    let credentials = match known {
        // a given `Authorization` header replaces the configured secret
        Some(known) if !headers.contains_key(http::header::AUTHORIZATION) => {
            Credentials::of(known).map_err(|why| Failure::Usage(format!("source `{source}`: {why}")))?
        }
        _ => Credentials::default(),
    };
    let sender = Sender { intake: Intake::new(&base, &source, headers).with(credentials), clock: Clock::system() };

    let mut files = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        let content = read(path).map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
        let bodies = split(&name, &content);
        if bodies.is_empty() {
            return Err(Failure::Usage(format!("{name}: nothing in it to send")));
        }
        files.push((name, bodies));
    }
    let mut summary = Summary::default();
    let sent = sender.all(&files, &mut summary).await;
    if summary.sent == 0 {
        return sent;
    }
    match args.shared.form() {
        Form::Json => output::json(&summary.json())?,
        Form::Table => output::text(&output::without_escapes(&summary.text()))?,
    }
    sent?;
    match summary.refused {
        0 => Ok(()),
        n => Err(Failure::Operation(format!("{} refused by {}", format::counted(n, "request"), sender.intake.url()))),
    }
}

fn listening(settings: &Settings) -> Result<String, Failure> {
    match settings.intake.listen.first() {
        Some(address) => Ok(format!("http://{}", reachable(*address))),
        None => Err(Failure::Usage("the configuration has no address in intake.listen; say with --intake".into())),
    }
}

fn the_source(settings: Option<&Settings>) -> String {
    match settings.map(|s| s.sources.as_slice()) {
        Some([only]) => only.name.clone(),
        _ => "default".to_owned(),
    }
}

fn read(path: &PathBuf) -> std::io::Result<Bytes> {
    if path.as_os_str() != "-" {
        return std::fs::read(path).map(Bytes::from);
    }
    let mut content = Vec::new();
    std::io::stdin().lock().read_to_end(&mut content)?;
    Ok(content.into())
}

struct Sender {
    intake: Intake,
    clock: Clock,
}

/// The file of a body, and its line.
#[derive(Debug)]
struct Place {
    file: String,
    line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            None => f.write_str(&self.file),
            Some(line) => write!(f, "{}:{line}", self.file),
        }
    }
}

/// The results so far.
#[derive(Debug, Default)]
struct Summary {
    sent: u64,
    accepted: u64,
    duplicates: u64,
    refused: u64,
    /// How often the sender waited for a busy intake.
    waits: u64,
    /// The first refusals, each with the place of its body.
    refusals: Vec<(Place, Refusal)>,
}

impl Sender {
    async fn all(&self, files: &[(String, Vec<Body>)], summary: &mut Summary) -> Result<(), Failure> {
        let total: u64 = files.iter().map(|(_, bodies)| bodies.len() as u64).sum();
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {eta} left {msg}")
                .expect("the template is a constant"),
        );
        for (name, bodies) in files {
            for body in bodies {
                let place = Place { file: name.clone(), line: body.line };
                match self.one(body.bytes.clone(), summary, &bar).await? {
                    Ok(taken) => {
                        summary.accepted += taken.accepted;
                        summary.duplicates += taken.duplicates;
                    }
                    Err(refusal) => summary.refuse(place, refusal),
                }
                summary.sent += 1;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Sends a body until it is accepted or refused; waits as long as a busy intake requests.
    async fn one(
        &self,
        body: Bytes,
        summary: &mut Summary,
        bar: &ProgressBar,
    ) -> Result<Result<Taken, Refusal>, Failure> {
        let started = self.clock.now();
        let mut broken = 0;
        loop {
            let wait = match self.intake.post(body.clone(), self.clock.wall()).await {
                Ok(Answer::Taken(taken)) => return Ok(Ok(taken)),
                Ok(Answer::Refused(refusal)) => return Ok(Err(refusal)),
                Ok(Answer::Busy { after, refusal }) => {
                    if self.clock.now().after(after).since(started) > BUSY_TIMEOUT {
                        return Ok(Err(refusal));
                    }
                    summary.waits += 1;
                    bar.set_message(format!("{}: waiting {}", refusal.code, format::age(after)));
                    after
                }
                Err(why) => {
                    broken += 1;
                    if broken > NO_ANSWER_MAX {
                        return Err(self.unreachable(&why));
                    }
                    bar.set_message(why);
                    Duration::from_millis(250 << broken)
                }
            };
            self.clock.sleep_until(self.clock.now().after(wait)).await;
            bar.set_message("");
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "the intake at {} does not answer: {why}.\nStart the daemon with `{}`, or say with --intake URL or --config \
             FILE where it is; what was sent already can safely be sent again",
            self.intake.url(),
            hint::start()
        ))
    }
}

impl Summary {
    fn refuse(&mut self, place: Place, refusal: Refusal) {
        self.refused += 1;
        if self.refusals.len() < EXPLAINED {
            self.refusals.push((place, refusal));
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} sent: accepted {}, duplicates {}, refused {}",
            format::counted(self.sent, "request"),
            format::count(self.accepted),
            format::count(self.duplicates),
            format::count(self.refused),
        );
        if self.waits > 0 {
            text.push_str(&format!(" ({} for a busy intake)", format::counted(self.waits, "wait")));
        }
        text.push('\n');
        for (place, refusal) in &self.refusals {
            text.push_str(&format!(
                "  {place}: {} {}: {}{}\n",
                refusal.status,
                refusal.code,
                refusal.message,
                remedy(&refusal.code, place)
            ));
        }
        let rest = self.refused - self.refusals.len() as u64;
        if rest > 0 {
            text.push_str(&format!("  and {} more\n", format::count(rest)));
        }
        text
    }

    fn json(&self) -> Value {
        let refusals: Vec<Value> = self
            .refusals
            .iter()
            .map(
                |(place, r)| json!({"at": place.to_string(), "status": r.status, "code": r.code, "message": r.message}),
            )
            .collect();
        json!({"sent": self.sent, "accepted": self.accepted, "duplicates": self.duplicates, "refused": self.refused,
            "refusals": refusals})
    }
}

/// What a sender can do about a refusal.
fn remedy(code: &str, place: &Place) -> String {
    let remedy = match code {
        "unknown_source" => " (name one of the configuration's with --source)",
        "unauthorized" => {
            " (say with --config FILE which configuration asks for credentials, or give them with --header 'NAME: VALUE')"
        }
        "body_too_large" => " (intake.max_body is the limit)",
        "invalid_json" if place.line.is_none() => " (one body a line? Then name the file .ndjson)",
        "disk_low" => " (free some disk, or lower intake.disk_reserve)",
        "intake_closed" => return format!(" (`{}` says why)", hint::command("status")),
        _ => "",
    };
    remedy.to_owned()
}

/// One body of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// Its line, from 1, if the file has several bodies.
    pub line: Option<usize>,
    /// The body as in the file.
    pub bytes: Bytes,
}

/// Splits `content`: one body per line if the file's `name` ends in `.ndjson` or `.jsonl`, or if the content is not one JSON
/// value but several lines that each are; else the whole content is one body, byte for byte.
pub fn split(name: &str, content: &Bytes) -> Vec<Body> {
    let lines = lines(content);
    let named = [".ndjson", ".jsonl"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let is_json = |bytes: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    if named || (lines.len() > 1 && !is_json(content) && lines.iter().all(|body| is_json(&body.bytes))) {
        return lines;
    }
    if content.is_empty() { Vec::new() } else { vec![Body { line: None, bytes: content.clone() }] }
}

/// The lines that are not blank, without line ends.
fn lines(content: &Bytes) -> Vec<Body> {
    let mut start = 0;
    let mut lines = Vec::new();
    for (i, line) in content.split(|&b| b == b'\n').enumerate() {
        let end = start + line.len() - usize::from(line.ends_with(b"\r"));
        let bytes = content.slice(start..end);
        if !bytes.trim_ascii().is_empty() {
            lines.push(Body { line: Some(i + 1), bytes });
        }
        start += line.len() + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An intake that returns these responses, one per request.
    async fn intake(answers: &'static [&'static str]) -> Intake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Intake::new(&base, "default", HeaderMap::new())
    }

    #[tokio::test]
    async fn a_busy_or_broken_intake_is_retried() {
        const ANSWERS: &[&str] = &[
            "HTTP/1.1 503 x\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "",
            "HTTP/1.1 429 x\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 202 x\r\nConnection: close\r\nContent-Length: 31\r\n\r\n{\"status\":\"duplicate\",\"id\":\"a\"}",
        ];
        let sender = Sender { intake: intake(ANSWERS).await, clock: Clock::system() };
        let bodies = split("-", &Bytes::from_static(b"{}"));
        let mut summary = Summary::default();
        sender.all(&[("-".to_owned(), bodies)], &mut summary).await.unwrap();
        assert_eq!((summary.duplicates, summary.waits, summary.refused), (1, 2, 0));
    }

    #[tokio::test]
    async fn an_intake_that_asks_for_too_long_a_wait_counts_as_refusal() {
        const ANSWERS: &[&str] =
            &["HTTP/1.1 503 x\r\nRetry-After: 3600\r\nConnection: close\r\nContent-Length: 43\r\n\r\n\
             {\"error\":{\"code\":\"disk_low\",\"message\":\"m\"}}"];
        let sender = Sender { intake: intake(ANSWERS).await, clock: Clock::system() };
        let mut summary = Summary::default();
        let bodies = split("-", &Bytes::from_static(b"{}"));
        sender.all(&[("-".to_owned(), bodies)], &mut summary).await.unwrap();
        assert_eq!((summary.refused, summary.refusals[0].1.code.as_str()), (1, "disk_low"));
    }

    #[test]
    fn headers_are_name_and_value() {
        let (name, value) = parse_header("Authorization: Bearer a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer a:b"));
        assert!(parse_header("nonsense").is_err() && parse_header("a b: c").is_err());
    }

    #[test]
    fn the_first_refusals_are_explained() {
        let mut summary = Summary { sent: 9, accepted: 1, ..Summary::default() };
        for line in 1..=8 {
            let refusal = Refusal { status: 404, code: "unknown_source".into(), message: "no such source".into() };
            summary.refuse(Place { file: "a.ndjson".into(), line: Some(line) }, refusal);
        }
        let text = summary.text();
        assert!(text.starts_with("9 requests sent: accepted 1, duplicates 0, refused 8\n"), "{text}");
        assert!(text.contains("a.ndjson:1: 404 unknown_source: no such source (name one"), "{text}");
        assert!(text.ends_with("  and 3 more\n"), "{text}");
        assert_eq!(summary.json()["refusals"].as_array().unwrap().len(), EXPLAINED);
    }

    fn bodies(name: &str, content: &'static str) -> Vec<(Option<usize>, String)> {
        let text = |b: Body| (b.line, String::from_utf8(b.bytes.to_vec()).unwrap());
        split(name, &Bytes::from_static(content.as_bytes())).into_iter().map(text).collect()
    }

    #[test]
    fn a_file_is_one_body_unless_its_lines_are() {
        let one = |text: &str| vec![(None, text.to_owned())];
        let pretty = "{\n  \"a\": 1\n}\n";
        assert_eq!(bodies("a.json", pretty), one(pretty));
        assert_eq!(bodies("a.json", "[1,\n2]"), one("[1,\n2]"));
        assert_eq!(bodies("a.json", "not json\nat all"), one("not json\nat all"));
        assert_eq!(bodies("-", "{\"a\":1}\n"), one("{\"a\":1}\n"));
        assert_eq!(bodies("a.json", ""), []);
    }

    #[test]
    fn ndjson_is_split_at_its_lines() {
        let two = vec![(Some(1), "{\"a\":1}".to_owned()), (Some(3), "{\"b\":2}".to_owned())];
        assert_eq!(bodies("-", "{\"a\":1}\n\n{\"b\":2}\n"), two);
        assert_eq!(bodies("a.json", "{\"a\":1}\r\n\r\n{\"b\":2}"), two);
        assert_eq!(bodies("a.NDJSON", "{\"a\":1}\n"), vec![(Some(1), "{\"a\":1}".to_owned())]);
        // an invalid line of such a file is sent too: the daemon reports what is wrong with it
        assert_eq!(bodies("a.jsonl", "{\nx")[1], (Some(2), "x".to_owned()));
    }
}
