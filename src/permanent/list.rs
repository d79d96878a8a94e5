//! `appfw unit list`.

use anyhow::Result;
use serde::Serialize;

use super::files::{Made, all_units, differences};
use super::realm::Realm;
use crate::cli::UnitListArgs;
use crate::installed::Mark;
use crate::manager::Kind;
use crate::name::LaunchName;
use crate::plan::Plan;
use crate::say;

/// A unit as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    manager: &'static str,
    wall: String,
    via: String,
    state: String,
    /// Whether it would be made otherwise now.
    stale: bool,
    /// Why it can't be made at all any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Listed {
    fn new(name: &LaunchName, mark: &Mark, realm: &Realm, state: String) -> Self {
        let made = Made::again(mark, realm).and_then(|made| {
            let is_changed = differences(&made, &realm.directories)?.iter().any(|change| !change.is_none());
            Ok((made.rendering.plan, is_changed))
        });
        let unknown = || "?".to_owned();
        let shown = |plan: &Plan| (plan.wall.as_str().to_owned(), plan.via.to_string());
        let (wall, via) = made.as_ref().map_or_else(|_| (unknown(), unknown()), |(plan, _)| shown(plan));
        let stale = mark.is_stale() || made.as_ref().map_or(true, |(_, is_changed)| *is_changed);
        let error = made.err().map(|error| format!("{error:#}"));
        Self {
            name: name.to_string(),
            manager: if realm.is_systems() { "system" } else { "user" },
            wall,
            via,
            state,
            stale,
            error,
        }
    }

    fn line(&self) -> String {
        let Self { name, manager, wall, via, state, .. } = self;
        let stale = match (&self.error, self.stale) {
            (Some(error), _) => format!("  stale: {error}"),
            (None, true) => format!("  stale: appfw unit update {name}"),
            (None, false) => String::new(),
        };
        format!("{name:<20} {manager:<7} {wall:<10} {state:<9} {via}{stale}\n")
    }
}

/// Lists what is installed.
///
/// # Errors
/// The directory cannot be read.
pub async fn list(args: &UnitListArgs) -> Result<()> {
    let realm = Realm::of_caller().await?;
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?;
    let mut listed = Vec::new();
    for (name, mark) in all_units(&realm.directories)? {
        let state = manager.property(&name.app(), Kind::Unit, "ActiveState").await;
        let state = state.ok().and_then(|state| String::try_from(state).ok()).unwrap_or_default();
        listed.push(Listed::new(&name, &mark, &realm, state));
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&listed)? + "\n",
        false => listed.iter().map(Listed::line).collect(),
    };
    say::answer(&text)
}
