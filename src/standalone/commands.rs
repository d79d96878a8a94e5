//! What is started, as command lines: pure, and what `--dry-run` prints.

use crate::host::Host;
use crate::plan::Plan;
use crate::units::{self, Places};
use crate::view::View;

/// The processes of one launch, and the view of the file system that the first makes for the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// Builds the wall and runs the app in it.
    pub inside: Vec<String>,
    /// The forwarder; none with `--via none`.
    pub forwarder: Option<Vec<String>>,
    /// What leads published ports to the app; none without any.
    pub publisher: Option<Vec<String>>,
    /// What the app sees of the file system.
    pub view: View,
}

impl Commands {
    /// Renders a plan.
    #[must_use]
    pub fn new(plan: &Plan, host: &Host, places: &Places) -> Self {
        let appfw = host.appfw.display().to_string();
        Self {
            inside: units::inside(plan, host, places, appfw.clone()),
            publisher: (!plan.publish.is_empty()).then(|| publisher(plan, host, appfw.clone())),
            forwarder: plan.has_forwarder().then(|| forwarder(plan, places, appfw)),
            view: View::new(plan, host, places),
        }
    }
}

/// No file: a via with a password comes with the sockets.
const HANDED: &str = "launcher";

fn forwarder(plan: &Plan, places: &Places, appfw: String) -> Vec<String> {
    let mut command = vec![appfw, "forward".to_owned(), "--handed".to_owned()];
    command.extend(units::forwarding(plan, HANDED));
    command.extend(places.circuits(plan).map(|file| units::sharing(&file)));
    command
}

fn publisher(plan: &Plan, host: &Host, appfw: String) -> Vec<String> {
    [appfw, "publish".to_owned()].into_iter().chain(units::publishing(plan, host)).collect()
}

/// As text, a line each, for `--dry-run`.
#[must_use]
pub fn text(commands: &Commands) -> String {
    let line =
        |command: &Vec<String>| command.iter().map(|word| units::text::quoted(word)).collect::<Vec<_>>().join(" ");
    let part = |what: &str, command: &Option<Vec<String>>| {
        let started = "started by the first connection to its sockets, which are handed to it";
        command.as_ref().map(|command| format!("# {what}: {started}\n{}\n\n", line(command))).unwrap_or_default()
    };
    format!(
        "# Builds the wall in namespaces of its own, proves it, and runs the program there\n{}\n\n{}{}{}",
        line(&commands.inside),
        part("The forwarder, outside", &commands.forwarder),
        part("Leads published ports into the program's network namespace", &commands.publisher),
        units::text::of_view(&commands.view)
    )
}
