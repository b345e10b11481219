use std::thread;

use super::*;

/// `work` of each of `size` ranks, in order.
fn each<T: Send>(size: usize, work: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    let ranks = threads::ranks(size);
    thread::scope(|scope| {
        let running: Vec<_> = ranks.iter().map(|ranks| scope.spawn(|| work(ranks))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn everyone_gets_what_everyone_has_in_order() {
    for size in 1..5 {
        let all = each(size, |ranks| {
            let mut seen = Vec::new();
            for round in 0..50 {
                let own = vec![(10 * round + ranks.rank()) as f64; ranks.rank()];
                let (all, received) = ranks.gather(own).unwrap();
                let others = (0..size).filter(|rank| *rank != ranks.rank());
                assert_eq!(received, if size == 1 { 0 } else { others.map(|rank| 8 + 8 * rank).sum() });
                seen.push(all);
            }
            assert_eq!(ranks.from_first(|| format!("of {}", ranks.rank())).unwrap(), "of 0");
            assert!(ranks.any(ranks.rank() + 1 == size).unwrap());
            assert!(!ranks.any(false).unwrap());
            ranks.end().unwrap();
            seen
        });
        let expected: Vec<Vec<Vec<f64>>> =
            (0..50).map(|round| (0..size).map(|r| vec![(10 * round + r) as f64; r]).collect()).collect();
        assert!(all.iter().all(|seen| *seen == expected), "{all:?}");
    }
}

#[test]
fn the_parts_of_ranks_are_consecutive_and_alike() {
    for (size, count) in [(1, 7), (3, 64), (4, 2), (5, 0)] {
        let parts: Vec<Range<usize>> = (0..size).map(|rank| share(rank, size, count)).collect();
        assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        assert!(parts.iter().all(|part| part.len().abs_diff(count / size) <= 1), "{parts:?}");
    }
}

#[test]
fn an_error_on_one_rank_reaches_all_and_the_first_of_two_is_named() {
    let errors = each(4, |ranks| {
        ranks.gather(1u64).unwrap();
        let error = match ranks.rank() {
            2 | 3 => ranks.fail(&format!("disk {} is full", ranks.rank())),
            _ => ranks.gather(2u64).unwrap_err(),
        };
        assert!(ranks.is_over());
        // Nothing is gathered any more, and nobody waits.
        assert!(ranks.gather(3u64).is_err());
        ranks.fail("again");
        ranks.end().unwrap();
        error.to_string()
    });
    assert!(errors.iter().all(|error| error == "rank 2: disk 2 is full"), "{errors:?}");
}

#[test]
fn a_rank_that_fails_at_its_end_is_heard_by_those_that_have_ended() {
    let ends = each(2, |ranks| match ranks.rank() {
        0 => ranks.end(),
        _ => Err(ranks.fail("no room")),
    });
    let expected = Err(RankError::Failed { rank: 1, message: "no room".into() });
    assert_eq!(ends, [expected.clone(), expected]);
    let stopped = each(2, |ranks| match ranks.rank() {
        0 => ranks.interrupt(),
        _ => ranks.any(false).unwrap_err(),
    });
    assert_eq!(stopped, [RankError::Interrupted(0), RankError::Interrupted(0)]);
}

#[test]
fn ranks_that_were_started_differently_are_named() {
    let lines = each(3, |ranks| {
        let seed = if ranks.rank() == 1 { "5" } else { "4" };
        let facts = [("version", "1".to_owned()), ("seed", seed.to_owned())];
        ranks.agree(&facts, "start them alike").unwrap_err().to_string()
    });
    let expected = "rank 1 has 5 as its seed, rank 0 has 4; start them alike";
    assert!(lines.iter().all(|line| line == expected), "{lines:?}");
}

#[test]
fn values_come_back_from_their_bytes_and_no_others_do() {
    fn back<T: Wire + PartialEq + std::fmt::Debug>(value: T) {
        let bytes = value.to_bytes();
        assert_eq!(T::from_bytes(&bytes), Ok(value));
        assert_eq!(T::from_bytes(&[&bytes[..], &[0]].concat()), Err(Damaged));
        if let Some((_, short)) = bytes.split_last() {
            assert_eq!(T::from_bytes(short), Err(Damaged));
        }
    }
    back(());
    back(vec![1.5f32, -0.0, f32::MIN_POSITIVE]);
    back(vec![vec![0.1f64], vec![]]);
    back((vec![true, false], vec![3u32]));
    back(Some("é".to_owned()));
    back(vec![usize::MAX]);
    back(vec![String::new(), "b".to_owned()]);
    // A length beyond all memory.
    assert_eq!(Vec::<f64>::from_bytes(&[255; 8]), Err(Damaged));
    assert_eq!(Vec::<String>::from_bytes(&u64::MAX.to_le_bytes()), Err(Damaged));
    assert_eq!(bool::from_bytes(&[2]), Err(Damaged));
}
