//! Which preset a request belongs to, where the profile is `auto`.

use super::pointer::Pointer;
use super::scan::Places;
use http::HeaderMap;

/// The beginning of the media types of whole CloudEvents, one or several.
const CLOUDEVENTS: &str = "application/cloudevents";

/// The places by which a body is told; each stands in [`claimant`].
const SIGNS: [&str; 18] = [
    "/Type",
    "/TopicArn",
    "/MessageId",
    "/Message",
    "/source",
    "/topicName",
    "/channel/platform",
    "/specversion",
    "/conversationId",
    "/data/entities",
    "/data/entities/0",
    "/0",
    "/0/specversion",
    "/0/id",
    "/0/subject",
    "/0/eventType",
    "/0/eventTime",
    "",
];

/// What a walk must look at for [`claimant`].
pub(super) fn pointers() -> impl Iterator<Item = Pointer> {
    SIGNS.iter().map(|sign| Pointer::parse(sign).expect("each sign is read by a test"))
}

/// Whether the headers carry a CloudEvent and the body is its data: any of the required attributes is a header, and the body
/// does not say that it is the whole event (CloudEvents HTTP binding 1.0, section 3).
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let whole = kind.trim_start().get(..CLOUDEVENTS.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(CLOUDEVENTS));
    !whole && ["ce-id", "ce-specversion", "ce-type", "ce-source"].iter().any(|name| headers.contains_key(*name))
}

/// The name of the preset that a request belongs to; a plain interaction where no other one claims it. The narrowest sign
/// is looked for first. An array is claimed by its first element, so that an empty one is nobody's.
pub(super) fn claimant(headers: &HeaderMap, found: &Places<'_, '_>) -> &'static str {
    let has = |segments: &[&str]| found.scalar(segments.iter().copied()).is_some();
    let starts = |name: &str, prefix: &str| found.scalar([name]).is_some_and(|value| value.starts_with(prefix));
    let array = |segments: &[&str]| found.text(segments.iter().copied()).is_some_and(|text| text.starts_with('['));

    let sns = ["MessageId", "Message"].iter().all(|field| has(&[field])) && starts("TopicArn", "arn:aws");
    if sns && found.scalar(["Type"]).as_deref() == Some("Notification") {
        return "sns";
    }
    if starts("source", "aws.partner/genesys.com") {
        return "genesys-eventbridge";
    }
    if starts("topicName", "v2.") || found.scalar(["topicName"]).as_deref() == Some("channel.metadata") {
        return "genesys-notification";
    }
    if found.scalar(["channel", "platform"]).as_deref() == Some("Open") {
        return "genesys-open-messaging";
    }
    let grid_header = headers.contains_key("aeg-event-type") && found.text(["0"]).is_some();
    let grid_fields = ["id", "subject", "eventType", "eventTime"].iter().all(|field| has(&["0", field]));
    if array(&[]) && (grid_header || grid_fields) && !has(&["0", "specversion"]) {
        return "azure-event-grid";
    }
    if is_binary(headers) || has(&["specversion"]) || (array(&[]) && has(&["0", "specversion"])) {
        return "cloudevents";
    }
    if array(&["data", "entities"]) && found.text(["data", "entities", "0"]).is_some() {
        return "genesys-engage-interactions";
    }
    if headers.contains_key("x-event-type") || has(&["conversationId"]) {
        return "genesys-trigger";
    }
    "interaction"
}
