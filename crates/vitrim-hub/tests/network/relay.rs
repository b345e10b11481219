//! A proxy, and a server that adds TLS: both pass bytes on to a server of this machine.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// An HTTP proxy that reaches every host at one address, and notes the head of each request.
pub struct Proxy {
    pub address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy that connects to `target`, whatever host is asked for.
    pub fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (noted, target) = (Arc::clone(&noted), target.clone());
                thread::spawn(move || pass(client.unwrap(), &target, &noted));
            }
        });
        Proxy { address, heads }
    }

    /// The heads of the requests since the last call.
    pub fn heads(&self) -> Vec<String> {
        std::mem::take(&mut self.heads.lock().unwrap())
    }
}

/// Starts a SOCKS proxy (version 5, RFC 1928, without a password) that connects to `target`, whatever host is asked for;
/// returns its address and the hosts that were asked for, as names.
pub fn socks(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&hosts);
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            // Version, count of methods, methods; then version, command, 0, 3 (a name), its length.
            let mut greeting = [0; 2];
            client.read_exact(&mut greeting).unwrap();
            client.read_exact(&mut vec![0; greeting[1].into()]).unwrap();
            client.write_all(&[5, 0]).unwrap();
            let mut request = [0; 5];
            client.read_exact(&mut request).unwrap();
            assert_eq!(request[..4], [5, 1, 0, 3]);
            let mut name_and_port = vec![0; usize::from(request[4]) + 2];
            client.read_exact(&mut name_and_port).unwrap();
            name_and_port.truncate(request[4].into());
            noted.lock().unwrap().push(String::from_utf8(name_and_port).unwrap());
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            let server = TcpStream::connect(&target).unwrap();
            thread::spawn(move || both_ways(client, server));
        }
    });
    (address, hosts)
}

/// Passes one request on; a tunnel until it is closed.
fn pass(mut client: TcpStream, target: &str, noted: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    noted.lock().unwrap().push(head.clone());
    let mut server = TcpStream::connect(target).unwrap();
    if head.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    } else {
        // A server takes a path: GET http://host/path becomes GET /path.
        let (before, path) = head.split_once("://").unwrap().1.split_once('/').unwrap();
        assert!(!before.is_empty());
        let path = path.lines().filter(|line| !line.starts_with("Proxy-"));
        let request = format!("GET /{}\r\n\r\n", path.collect::<Vec<_>>().join("\r\n").trim_end());
        server.write_all(request.as_bytes()).unwrap();
    }
    both_ways(client, server);
}

/// Passes bytes on until the server closes the connection.
fn both_ways(mut client: TcpStream, mut server: TcpStream) {
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// Starts a server on https with a certificate for `host` that an authority of its own has signed; passes requests on to
/// `target`. Returns its port and the authority's certificate in PEM form.
pub fn secured(host: &str, target: String) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (serve(&leaf, &key, target), root.pem())
}

/// Like [`secured`], with a certificate that signs itself and may sign others: what `openssl req -x509` makes.
pub fn self_signed(host: &str, target: String) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec![host.to_owned()]).unwrap();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = own.self_signed(&key).unwrap();
    (serve(&own, &key, target), own.pem())
}

/// Serves with `certificate` on a port that is returned.
fn serve(certificate: &Certificate, key: &KeyPair, target: String) -> u16 {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (config, target) = (Arc::clone(&config), target.clone());
            thread::spawn(move || answer(client.unwrap(), config, &target));
        }
    });
    port
}

/// One request on https and its answer.
fn answer(client: TcpStream, config: Arc<ServerConfig>, target: &str) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), client);
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // A client that does not accept the certificate goes away.
        let Ok(1) = stream.read(&mut byte) else { return };
        head.push(byte[0]);
    }
    let mut server = TcpStream::connect(target).unwrap();
    server.write_all(&head).unwrap();
    let mut found = Vec::new();
    server.read_to_end(&mut found).unwrap();
    let _ = stream.write_all(&found);
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
