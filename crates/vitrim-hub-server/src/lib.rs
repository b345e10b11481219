//! A local server with the parts of the Hugging Face Hub's API that a download needs, with simulated faults.
//!
//! Small files are named by 40 hexadecimal digits, like git's hashes, and large ones (here: safetensors, parquet and
//! images) by their SHA-256. Large files are behind a redirect to another host, as on the Hub.
//! <https://huggingface.co/docs/hub/api>

mod answer;
mod content;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use answer::answer;
pub use content::{Asked, Faults, Files, sha256};
use content::{State, is_large};

/// A Hub that serves until it is dropped.
pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts an empty server.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(&mut stream.unwrap(), port, &shared));
            }
        });
        Server { port, state, ended, thread: Some(thread) }
    }

    /// The server's address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Pushes `files` to the branch `main` of `repo`, as in `models/owner/name`; returns the commit.
    pub fn push(&self, repo: &str, files: Files) -> String {
        let mut state = self.state.lock().unwrap();
        for (name, bytes) in &files {
            if is_large(name) {
                state.large.insert(sha256(bytes), bytes.clone());
            }
        }
        let repo = state.repos.entry(repo.to_owned()).or_default();
        let commit = sha256(format!("{}{files:?}", repo.commits.len()).as_bytes())[..40].to_owned();
        repo.commits.insert(commit.clone(), files);
        repo.branches.insert("main".to_owned(), commit.clone());
        commit
    }

    /// Pushes all files below `folder`.
    pub fn push_folder(&self, repo: &str, folder: &Path) -> String {
        let mut files = Files::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        self.push(repo, files)
    }

    /// Makes `branch` name the commit of `main`.
    pub fn branch(&self, repo: &str, branch: &str) {
        let mut state = self.state.lock().unwrap();
        let branches = &mut state.repos.get_mut(repo).unwrap().branches;
        branches.insert(branch.to_owned(), branches["main"].clone());
    }

    /// Restricts `repo` to requests with `token`.
    pub fn guard(&self, repo: &str, token: &str) {
        self.state.lock().unwrap().repos.get_mut(repo).unwrap().token = Some(token.to_owned());
    }

    /// Sets the simulated faults.
    pub fn fail(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the server's thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
