//! Names in the configuration that have changed. An old name is a fault whose message gives the new one.

/// Place, old name, new name. The place is the dotted key of the table, without the numbers of blocks.
pub(super) const RENAMED: &[(&str, &str, &str)] = &[
    ("intake", "max_in_flight", "max_buffered_bytes"),
    ("intake", "max_unverified", "max_unverified_bytes"),
    ("intake", "max_unverified_per_address", "max_unverified_bytes_per_address"),
    ("intake", "max_unverified_per_connection", "max_unverified_bytes_per_connection"),
    ("source", "on_unparsable", "on_invalid_body"),
    ("destination.breaker", "open_for", "open_duration"),
    ("destination.concurrency", "ramp", "ramp_up"),
    (CONDITIONS, "gap", "outage"),
    (CONDITIONS, "dlq_full", "dlq_over_limit"),
];

/// The place of the conditions of alerts.
const CONDITIONS: &str = "alert.on";

/// The new name of a key. `path` is the dotted key of its table, as in `destination[1].breaker`.
pub(super) fn renamed_key(path: &str, key: &str) -> Option<&'static str> {
    let place: String = path.split(['[', ']']).step_by(2).collect();
    RENAMED.iter().find(|(at, old, _)| *at == place && *old == key).map(|(_, _, new)| *new)
}

/// An alert condition under its new name, where it is written under its old one: `outage > 30s` for `gap > 30s`.
pub fn renamed_condition(text: &str) -> Option<String> {
    let name = text.split_whitespace().next()?;
    let (_, _, new) = RENAMED.iter().find(|(at, old, _)| *at == CONDITIONS && *old == name)?;
    Some(text.trim_start().replacen(name, new, 1))
}
