//! Opens a page in a browser: from disk in headless Chromium, at the width of a phone and of a desktop.
//!
//! The browser is `$CHROME`, or Chromium or Google Chrome in `PATH`. It speaks the [DevTools
//! protocol](https://chromedevtools.github.io/devtools-protocol/) over a pair of pipes (JSON, each message
//! ended by a zero byte). The crates that speak it pull in a TLS stack and change the features of what Burn
//! depends on, so that `cargo test` would compile Burn a second time; pipes need neither.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Widths of the viewport that a page must fit into, in CSS pixels.
const WIDTHS: [u32; 2] = [400, 1200];
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// Longest time to wait for a message.
const PATIENCE: Duration = Duration::from_secs(60);

/// A script that lists the faults of the current page.
const LOOK: &str = r#"(async () => {
    const faults = [];
    const name = element => element.outerHTML.slice(0, 80);
    await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
    for (const image of document.images)
        if (!image.complete || image.naturalWidth === 0) faults.push(`broken image: ${name(image)}`);
    for (const svg of document.querySelectorAll('svg')) {
        const box = svg.getBoundingClientRect();
        if (box.width === 0 || box.height === 0) faults.push(`drawing without a size: ${name(svg)}`);
    }
    const width = document.documentElement.scrollWidth;
    if (width > VIEWPORT) faults.push(`${width} px wide in a viewport of VIEWPORT px`);
    return faults;
})()"#;

/// A running browser.
pub struct Browser {
    process: Child,
    messages: Receiver<Value>,
    sent: u64,
    /// Faults of the open page, from the events so far.
    faults: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts the browser. None if there is none; the test is then reported as skipped, or fails with
    /// `VITRIM_REQUIRE_BROWSER=1` in the environment.
    pub fn open() -> Option<Browser> {
        let Some(program) = find() else {
            let required = std::env::var_os("VITRIM_REQUIRE_BROWSER").is_some_and(|value| value == "1");
            assert!(!required, "VITRIM_REQUIRE_BROWSER=1, but no Chromium is in PATH, and CHROME names none");
            vitrim_skips::skip("no browser; install Chromium, or set CHROME to one");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The protocol's pipes are 3 and 4. The sandbox does not start as root; these pages are our own.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#])
            .arg(&program)
            .args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in pipe.split(0) {
                let Ok(message) = message else { break };
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        Some(Browser { process, messages, sent: 0, faults: Vec::new(), _profile: profile })
    }

    /// Faults of the page at `path`: errors on its console, exceptions, requests for anything but files and data,
    /// broken images, drawings without a size, and content wider than the viewport.
    pub fn faults(&mut self, path: &Path) -> Vec<String> {
        WIDTHS.into_iter().flat_map(|width| self.faults_at(width, path)).collect()
    }

    fn faults_at(&mut self, width: u32, path: &Path) -> Vec<String> {
        let target = self.call(None, "Target.createTarget", &json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", &target);
        let page = attached["sessionId"].as_str();
        for domain in ["Log", "Runtime", "Network", "Page"] {
            self.call(page, &format!("{domain}.enable"), &json!({}));
        }
        let viewport =
            json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call(page, "Emulation.setDeviceMetricsOverride", &viewport);

        self.faults.clear();
        let url = format!("file://{}", path.canonicalize().unwrap().display());
        let navigated = self.call(page, "Page.navigate", &json!({ "url": url }));
        assert_eq!(navigated["errorText"], Value::Null, "{url}");
        self.wait_for(|message| message["method"] == "Page.loadEventFired");
        let script = LOOK.replace("VIEWPORT", &width.to_string());
        let look = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let seen = self.call(page, "Runtime.evaluate", &look);
        let mut faults = std::mem::take(&mut self.faults);
        faults.extend(serde_json::from_value::<Vec<String>>(seen["result"]["value"].clone()).unwrap());
        self.call(None, "Target.closeTarget", &target);
        faults
    }

    /// Calls a method of the browser, or of a page's session, and returns its result.
    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.sent += 1;
        let id = self.sent;
        let mut call = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            call["sessionId"] = session.into();
        }
        let pipe = self.process.stdin.as_mut().unwrap();
        pipe.write_all(format!("{call}\0").as_bytes()).unwrap();
        pipe.flush().unwrap();
        let mut answer = self.wait_for(|message| message["id"] == id);
        assert_eq!(answer["error"], Value::Null, "{method}");
        answer["result"].take()
    }

    /// The next message that is `wanted`; faults that come before it are recorded.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("the browser answers");
            self.faults.extend(fault(&message));
            if wanted(&message) {
                return message;
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends when its pipe is closed.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The browser's program.
fn find() -> Option<PathBuf> {
    if let Some(chrome) = std::env::var_os("CHROME") {
        return Some(chrome.into());
    }
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let programs = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    programs.into_iter().find(|program| program.is_file())
}

/// The fault that this event reports, if any.
fn fault(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Runtime.consoleAPICalled" if params["type"] == "error" => {
            Some(format!("console.error: {}", params["args"]))
        }
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            Some(format!("logged error: {}", params["entry"]["text"]))
        }
        "Network.requestWillBeSent" => {
            let url = params["request"]["url"].as_str()?;
            let local = url.starts_with("file:") || url.starts_with("data:");
            (!local).then(|| format!("request: {url}"))
        }
        _ => None,
    }
}
