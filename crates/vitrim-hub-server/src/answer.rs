//! One request, read and answered.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::content::{Asked, Faults, Repo, State, is_large, sha256};

/// An answer to be sent.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Number of bytes of the body that are sent before the connection is closed.
    sent: usize,
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Answer { status, headers: Vec::new(), sent: body.len(), body }
    }
}

/// Answers the request that comes through `stream`; `port` is the server's.
pub(crate) fn answer(stream: &mut TcpStream, port: u16, state: &Mutex<State>) {
    let Some((target, host, token, from)) = request(stream) else { return };
    let mut state = state.lock().unwrap();
    let asked = Asked { target: target.clone(), token: token.clone(), from };
    state.asked.push(asked);
    let found = match state.faults.status {
        Some(status) => Answer::new(status, Vec::new()),
        None => route(&mut state, &target, &host, token.as_deref(), from, port),
    };
    drop(state);
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", found.status);
    for (name, value) in &found.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", found.body.len());
    // The client may have closed the connection.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&found.body[..found.sent]);
}

/// Path and query (decoded), host, token, and the first byte that is requested.
fn request(stream: &mut TcpStream) -> Option<(String, String, Option<String>, Option<usize>)> {
    let mut bytes = Vec::new();
    let mut reader = BufReader::new(stream).bytes();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(reader.next()?.ok()?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(&bytes).unwrap().is_complete());
    assert_eq!(request.method, Some("GET"));
    let target = percent_decode_str(request.path.unwrap()).decode_utf8().unwrap().into_owned();
    let header = |name: &str| {
        let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8(header.value.to_vec()).unwrap())
    };
    let token = header("authorization").map(|value| value.strip_prefix("Bearer ").unwrap().to_owned());
    let from = header("range").map(|value| {
        let range = value.strip_prefix("bytes=").unwrap().to_owned();
        range.split_once('-').unwrap().0.parse().unwrap()
    });
    Some((target, header("host").unwrap(), token, from))
}

fn route(
    state: &mut State,
    target: &str,
    host: &str,
    token: Option<&str>,
    from: Option<usize>,
    port: u16,
) -> Answer {
    if let Some(hash) = target.strip_prefix("/large/") {
        assert!(host.starts_with("localhost:"), "large files are on another host than {host}");
        return large(state, hash, from);
    }
    let (api, path) = match target.strip_prefix("/api/") {
        Some(path) => (true, path.to_owned()),
        None if target.starts_with("/datasets/") => (false, target[1..].to_owned()),
        None => (false, format!("models{target}")),
    };
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    let [kind, owner, name, verb, rest] = parts[..] else { return Answer::new(404, Vec::new()) };
    let Some(repo) = state.repos.get(&format!("{kind}/{owner}/{name}")) else {
        // Like the Hub: without a token, a missing repository is answered 401, so that it cannot be told from a
        // private one.
        return Answer::new(if token.is_some() { 404 } else { 401 }, Vec::new());
    };
    match (repo.token.as_deref(), token) {
        (Some(_), None) => return Answer::new(401, Vec::new()),
        (Some(wanted), Some(token)) if wanted != token => return Answer::new(403, Vec::new()),
        _ => {}
    }
    match (api, verb) {
        (true, "revision") => listing(repo, rest, &state.faults),
        (false, "resolve") => file(repo, rest, from, port),
        _ => Answer::new(404, Vec::new()),
    }
}

fn listing(repo: &Repo, rest: &str, faults: &Faults) -> Answer {
    let (revision, query) = rest.split_once('?').unwrap_or((rest, ""));
    assert_eq!(query, "blobs=true");
    let commit = repo.branches.get(revision).map_or(revision, String::as_str);
    let Some(files) = repo.commits.get(commit) else { return Answer::new(404, Vec::new()) };
    let sibling = |(name, bytes): (&String, &Vec<u8>)| -> Value {
        let hash = sha256(bytes);
        let mut sibling = json!({"rfilename": name});
        if !faults.plain_listing {
            sibling["size"] = json!(bytes.len());
            sibling["blobId"] = json!(hash[..40]);
            if is_large(name) {
                sibling["lfs"] = json!({"sha256": hash, "size": bytes.len(), "pointerSize": 130});
            }
        }
        sibling
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    let body = json!({"id": "owner/name", "sha": commit, "siblings": siblings}).to_string();
    let mut answer = Answer::new(200, body.into_bytes());
    answer.headers.push(("Content-Type", "application/json".to_owned()));
    answer
}

fn file(repo: &Repo, rest: &str, from: Option<usize>, port: u16) -> Answer {
    let (commit, name) = rest.split_once('/').unwrap();
    let Some(bytes) = repo.commits.get(commit).and_then(|files| files.get(name)) else {
        return Answer::new(404, Vec::new());
    };
    let hash = sha256(bytes);
    let commit = ("X-Repo-Commit", commit.to_owned());
    if !is_large(name) {
        let mut answer = part(bytes, from);
        answer.headers.extend([commit, ("ETag", format!("\"{}\"", &hash[..40]))]);
        return answer;
    }
    let mut answer = Answer::new(302, Vec::new());
    answer.headers.extend([
        commit,
        ("Location", format!("http://localhost:{port}/large/{hash}")),
        ("X-Linked-ETag", format!("\"{hash}\"")),
        ("X-Linked-Size", bytes.len().to_string()),
    ]);
    answer
}

fn large(state: &mut State, hash: &str, from: Option<usize>) -> Answer {
    let mut bytes = state.large[hash].clone();
    if state.faults.damage {
        bytes[0] ^= 1;
    }
    let mut answer = part(&bytes, from.filter(|_| !state.faults.no_ranges));
    if state.faults.break_off > 0 {
        state.faults.break_off -= 1;
        answer.sent /= 2;
    }
    answer
}

/// The part of `bytes` from `from` on.
fn part(bytes: &[u8], from: Option<usize>) -> Answer {
    let Some(from) = from else { return Answer::new(200, bytes.to_vec()) };
    let mut answer = Answer::new(206, bytes[from..].to_vec());
    let all = bytes.len();
    answer.headers.push(("Content-Range", format!("bytes {from}-{}/{all}", all - 1)));
    answer
}
