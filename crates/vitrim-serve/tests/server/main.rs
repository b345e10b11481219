//! A real server on a free port of this machine, with small random models that the tests write.

mod fixture;
mod grpc;
mod lifecycle;
mod limits;
mod rest;
mod surge;
