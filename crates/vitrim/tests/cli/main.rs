//! The program as a user runs it: every command on small data, every refusal in one line.

mod browser;
mod commands;
mod fixtures;
mod interrupt;
mod pretrain;
mod refusals;
mod report;
mod shared;
