//! What a filtered session bus lets through, as xdg-dbus-proxy(1) takes it. TO BE AUDITED. Pure.
//!
//! Calls by interface and path, and never a whole name (`--talk`): rules go by connection, and a desktop's
//! shell has many names on one, with methods among them that run programs. To own a name is to
//! speak to whoever has it as well, players that open addresses among them: names.rs says which.

/// Calls let through: name, then interface and path as in the proxy's rules.
const CALLS: [(&str, &str); 9] = [
    ("org.freedesktop.Notifications", "org.freedesktop.Notifications.*@/org/freedesktop/Notifications"),
    // Of the portals those for files and settings. OpenURI opens addresses, outside; so may Email and others.
    ("org.freedesktop.portal.Desktop", "org.freedesktop.portal.FileChooser.*@/org/freedesktop/portal/desktop"),
    ("org.freedesktop.portal.Desktop", "org.freedesktop.portal.Settings.*@/org/freedesktop/portal/desktop"),
    ("org.freedesktop.portal.Desktop", "org.freedesktop.DBus.Properties.Get@/org/freedesktop/portal/desktop"),
    (
        "org.freedesktop.portal.Desktop",
        "org.freedesktop.portal.Request.Close@/org/freedesktop/portal/desktop/request/*",
    ),
    ("org.freedesktop.portal.Documents", "org.freedesktop.portal.Documents.*@/org/freedesktop/portal/documents"),
    // Input methods, as sandboxes have them.
    ("org.freedesktop.portal.IBus", "org.freedesktop.IBus.*"),
    ("org.freedesktop.portal.Fcitx", "org.fcitx.Fcitx.InputMethod1.*"),
    ("org.freedesktop.portal.Fcitx", "org.fcitx.Fcitx.InputContext1.*"),
];

/// Signals let through.
const SIGNALS: [(&str, &str); 5] = [
    ("org.freedesktop.Notifications", "org.freedesktop.Notifications.*@/org/freedesktop/Notifications"),
    ("org.freedesktop.portal.Desktop", "org.freedesktop.portal.Settings.*@/org/freedesktop/portal/desktop"),
    ("org.freedesktop.portal.Desktop", "org.freedesktop.portal.Request.*@/org/freedesktop/portal/desktop/request/*"),
    ("org.freedesktop.portal.IBus", "org.freedesktop.IBus.*"),
    ("org.freedesktop.portal.Fcitx", "org.fcitx.Fcitx.InputContext1.*"),
];

/// The proxy's arguments after address and socket, for an app that may own these names.
#[must_use]
pub fn arguments(own: &[String]) -> Vec<String> {
    let own = own.iter().map(|name| format!("--own={name}"));
    let calls = CALLS.iter().map(|(name, rule)| format!("--call={name}={rule}"));
    let signals = SIGNALS.iter().map(|(name, rule)| format!("--broadcast={name}={rule}"));
    std::iter::once("--filter".to_owned()).chain(own).chain(calls).chain(signals).collect()
}
