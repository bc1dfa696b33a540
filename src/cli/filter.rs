//! Filters for events and dead letters, and paging through the API's lists.

use crate::api::{self, Page};
use crate::cli::client::{Admin, with_query};
use crate::cli::{Failure, format, output};
use crate::delivery::Reason;
use crate::event::EventId;
use clap::builder::PossibleValuesParser;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::num::NonZeroU32;

/// The filters that events and dead letters have in common. An event must pass all that are given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filter {
    /// Only for this destination
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Only from this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only of this event type
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Only of this interaction (conversation)
    #[arg(long, value_name = "KEY")]
    pub interaction: Option<String>,
}

impl Filter {
    /// Name and value of each given filter, with the API's names.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("destination", &self.destination),
            ("source", &self.source),
            ("type", &self.kind),
            ("interaction", &self.interaction),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    }
}

/// The filters that only dead letters have.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DeadFilter {
    /// Only those that died for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::word)))]
    pub reason: Option<String>,
    /// Only those that died at this time or later: RFC 3339, or how long ago (`2h`, `7d`)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<String>,
    /// Only those that died before this time: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<String>,
}

impl DeadFilter {
    /// Name and value of each given filter, with the API's names.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        [("reason", &self.reason), ("since", &self.since), ("until", &self.until)]
            .into_iter()
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    }
}

/// Filters as a JSON object for a request body.
pub fn object<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// Splits `EVENT/DESTINATION` into event and destination. A sender's own id can contain a slash, so `SOURCE:ID` is not
/// split.
pub fn pair(named: &str) -> (&str, Option<&str>) {
    match named.split_once('/') {
        Some((event, destination)) if event.parse::<EventId>().is_ok() => (event, Some(destination)),
        _ => (named, None),
    }
}

/// Event and destination from `EVENT/DESTINATION` or `--destination`; two different destinations are a usage error.
pub fn one<'a>(named: &'a str, destination: Option<&'a str>) -> Result<(&'a str, Option<&'a str>), Failure> {
    match (pair(named), destination) {
        ((_, Some(one)), Some(other)) if one != other => {
            Err(Failure::Usage(format!("{named} is not for {other}, which --destination names")))
        }
        ((event, named), given) => Ok((event, named.or(given))),
    }
}

/// The matched deliveries by destination: ` (crm 2, erp 1)`, or ` (crm)` if all are for one.
pub fn scope(changed: &api::Changed) -> String {
    let destinations = &changed.destinations;
    let named: Vec<String> = match destinations.len() {
        0 => return String::new(),
        1 => destinations.keys().map(|name| format::line(name, 63)).collect(),
        _ => destinations.iter().map(|(name, n)| format!("{} {n}", format::line(name, 63))).collect(),
    };
    format!(" ({})", named.join(", "))
}

/// When the events that are meant were accepted.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Accepted {
    /// Only those accepted at this time or later: RFC 3339, or how long ago (`2h`, `7d`)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Only those accepted before this time: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
}

impl Accepted {
    /// Name and value of each given filter, with the API's names.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        [("since", &self.since), ("until", &self.until)]
            .into_iter()
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    }
}

/// A time in RFC 3339: as given, or counted back from now.
fn moment(given: &str) -> Result<String, String> {
    if let Ok(ago) = humantime::parse_duration(given) {
        return Ok(format::now().before(ago).to_string());
    }
    let looks_right =
        given.len() >= 20 && given.as_bytes()[4] == b'-' && given.as_bytes()[10].eq_ignore_ascii_case(&b'T');
    if looks_right {
        Ok(given.to_owned())
    } else {
        Err("write a time such as 2026-03-19T22:04:48Z, or how long ago: 30m, 2h, 7d".to_owned())
    }
}

/// How much of a list is wanted.
#[derive(Clone, Debug, clap::Args)]
pub struct Pages {
    /// At most so many, up to 1000
    #[arg(long, value_name = "N", default_value = "50")]
    limit: NonZeroU32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
    /// Everything, page by page
    #[arg(long)]
    all: bool,
}

/// The page size for `--all`.
const PAGE: u32 = 500;
/// The API's largest page; longer lists need `--all` or `--after`.
const PAGE_MAX: u32 = 1000;

impl Pages {
    fn size(&self) -> u32 {
        if self.all { PAGE } else { self.limit.get().min(PAGE_MAX) }
    }
}

/// Prints a list as JSON in the API's form; with `--all` as one list, written as the pages arrive.
pub async fn print_json(admin: &Admin, path: &str, pairs: &[(&str, &str)], pages: &Pages) -> Result<(), Failure> {
    if !pages.all {
        let page: Page<Value> = page(admin, path, pairs, pages.size(), pages.after.as_deref()).await?;
        return output::json(&page);
    }
    output::json_text("{\"items\":[")?;
    let mut lead = "";
    let mut after = pages.after.clone();
    loop {
        let page: Page<Value> = page(admin, path, pairs, pages.size(), after.as_deref()).await?;
        for entry in &page.items {
            output::json_text(&format!("{lead}{entry}"))?;
            lead = ",\n";
        }
        after = next(page.next, after);
        if after.is_none() {
            return output::json_text("],\"next\":null}\n");
        }
    }
}

/// Prints a list as tables, one per page, each made by `table`; says on stderr where the list continues, or that it is
/// empty.
pub async fn print_tables<T: DeserializeOwned>(
    admin: &Admin,
    path: &str,
    pairs: &[(&str, &str)],
    pages: &Pages,
    table: impl Fn(&[T]) -> String,
) -> Result<(), Failure> {
    let mut after = pages.after.clone();
    let mut shown = 0;
    loop {
        let page = page(admin, path, pairs, pages.size(), after.as_deref()).await?;
        shown += page.items.len();
        if !page.items.is_empty() {
            output::text(&table(&page.items))?;
        }
        after = next(page.next, after);
        match &after {
            Some(_) if pages.all => {}
            Some(next) => {
                output::note(&format!("There are more: --after {next}, or --all"));
                return Ok(());
            }
            None => break,
        }
    }
    if shown == 0 {
        let filtered = if pairs.is_empty() { "." } else { " that fits the filters." };
        output::note(&format!("None{filtered}"));
    }
    Ok(())
}

/// Gets a page of `limit` items. The daemon bounds the work of one response and may return fewer, so this asks again until
/// the page is full.
async fn page<T: DeserializeOwned>(
    admin: &Admin,
    path: &str,
    pairs: &[(&str, &str)],
    limit: u32,
    after: Option<&str>,
) -> Result<Page<T>, Failure> {
    let (mut items, mut after) = (Vec::new(), after.map(str::to_owned));
    loop {
        let part: Page<T> = part(admin, path, pairs, limit - items.len() as u32, after.as_deref()).await?;
        items.extend(part.items);
        after = next(part.next, after);
        if after.is_none() || items.len() >= limit as usize {
            return Ok(Page { items, next: after });
        }
    }
}

async fn part<T: DeserializeOwned>(
    admin: &Admin,
    path: &str,
    pairs: &[(&str, &str)],
    limit: u32,
    after: Option<&str>,
) -> Result<Page<T>, Failure> {
    let limit = limit.to_string();
    let paging = [("limit", Some(limit.as_str())), ("after", after)];
    let paging = paging.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    admin.get(&with_query(path, pairs.iter().copied().chain(paging))).await
}

/// Where the list continues; none if the position did not advance, so that no response causes an endless loop.
fn next(next: Option<String>, before: Option<String>) -> Option<String> {
    next.filter(|next| !next.is_empty() && Some(next) != before.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_the_names_of_the_api() {
        let filter = Filter { kind: Some("v2.*".into()), interaction: Some("k".into()), ..Filter::default() };
        let dead = DeadFilter { reason: Some("stale".into()), ..DeadFilter::default() };
        let object = object(filter.pairs().chain(dead.pairs()));
        assert_eq!(Value::Object(object), json!({"type": "v2.*", "interaction": "k", "reason": "stale"}));
    }

    #[test]
    fn an_event_with_destination_is_split_and_sender_ids_are_not() {
        const ID: &str = "0195b1c2-7a3e-7000-8000-0123456789ab";
        let both = format!("{ID}/crm");
        assert_eq!(pair(&both), (ID, Some("crm")));
        for whole in [ID, "genesys:a/b", "a/crm", ""] {
            assert_eq!(pair(whole), (whole, None));
        }
        assert_eq!(one(&both, None).unwrap(), (ID, Some("crm")));
        assert_eq!(one(&both, Some("crm")).unwrap(), (ID, Some("crm")));
        assert_eq!(one(ID, Some("erp")).unwrap(), (ID, Some("erp")));
        assert_eq!(one(&both, Some("erp")).unwrap_err().code(), 2);
    }

    #[test]
    fn a_scope_names_each_destination() {
        let of = |destinations: Value| scope(&api::filled(json!({"destinations": destinations})));
        assert_eq!(of(json!({"crm": 2, "erp": 1})), " (crm 2, erp 1)");
        assert_eq!(of(json!({"crm": 2})), " (crm)");
        assert_eq!(of(json!({})), "");
    }

    #[test]
    fn a_moment_is_a_date_or_an_age() {
        assert_eq!(moment("2026-03-19T22:04:48Z").unwrap(), "2026-03-19T22:04:48Z");
        assert_eq!(moment("2026-03-19T22:04:48.1+02:00").unwrap(), "2026-03-19T22:04:48.1+02:00");
        assert!(format::instant(&moment("2h").unwrap()).is_some());
        assert!(moment("yesterday").is_err() && moment("2026-03-19").is_err());
        assert!(moment("äääääääääääääääää").is_err());
    }

    #[test]
    fn a_list_that_makes_no_progress_ends() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(next(some("b"), some("a")), some("b"));
        assert_eq!([next(some("a"), some("a")), next(some(""), None), next(None, None)], [None, None, None]);
    }
}
