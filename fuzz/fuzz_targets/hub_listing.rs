//! The Hub's answer to a request for a repository's files; the first byte says what is wanted of it. Every file that is
//! then fetched has the same bytes; downloads of files of other sizes, which are tried again after a pause, are ended.
#![no_main]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use vitrim_fuzz::folder;
use vitrim_hub::{DownloadEvent, Hub, Kind, Network, Reference, Settings, observe};

static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static HUB: LazyLock<Hub> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(reading) = stream.try_clone() else { continue };
            // The request's header ends at an empty line.
            BufReader::new(reading)
                .lines()
                .take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
                .count();
            let body = ANSWER.lock().expect("no thread panics").clone();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    observe(|event| match event {
        DownloadEvent::Begin { files, bytes: Some(bytes), .. }
            if bytes != (files * ANSWER.lock().expect("no thread panics").len()) as u64 =>
        {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    let (cache, network) = (folder().join("cache"), Network::default());
    Hub::new(Settings { endpoint, cache, token: None, offline: None, offline_data: None, network })
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, listing)) = bytes.split_first() else { return };
    let kind = [Kind::Model, Kind::Policy, Kind::Data][usize::from(*kind) % 3];
    *ANSWER.lock().expect("no thread panics") = listing.to_vec();
    let reference = Reference::parse("hf://owner/name", kind).expect("a reference");
    if let Ok(path) = HUB.fetch(&reference, kind) {
        assert!(path.starts_with(folder()), "{} lies outside the cache", path.display());
    }
    let _ = std::fs::remove_dir_all(folder().join("cache"));
});
