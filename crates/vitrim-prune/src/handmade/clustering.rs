//! Agglomerative clustering by the nearest-neighbour chain.

/// The distance between two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linkage {
    /// The smallest distance of a pair.
    Single,
    /// The mean distance of all pairs.
    Average,
    /// The largest distance of a pair.
    Complete,
}

impl Linkage {
    /// The distance of a cluster to the union of two clusters with `a` and `b` members, from its distances to each.
    fn to_union(self, (a, to_a): (usize, f64), (b, to_b): (usize, f64)) -> f64 {
        match self {
            Linkage::Single => to_a.min(to_b),
            Linkage::Average => (a as f64 * to_a + b as f64 * to_b) / (a + b) as f64,
            Linkage::Complete => to_a.max(to_b),
        }
    }
}

/// Joins n points with `distances: [n, n]` (symmetric) to `wanted` clusters: the two nearest clusters are joined until as
/// many are left. Each cluster's members ascend, and clusters are in the order of their first members. O(n^2): the
/// chain of nearest neighbours finds all joins in another order, and those below the cut are the same, because no
/// join of these linkages brings a cluster nearer to a third than its parts were (Müllner, 2011).
pub(super) fn clusters(distances: &[f32], linkage: Linkage, wanted: usize) -> Vec<Vec<usize>> {
    let n = distances.len().isqrt();
    let joins = n.saturating_sub(wanted.max(1));
    let mut all = joins_of_chain(distances, n, linkage);
    all.sort_by(|x, y| x.height.total_cmp(&y.height));
    let mut parents: Vec<usize> = (0..n).collect();
    for join in &all[..joins] {
        let (a, b) = (root(&mut parents, join.a), root(&mut parents, join.b));
        parents[a.max(b)] = a.min(b);
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); n];
    for point in 0..n {
        let cluster = root(&mut parents, point);
        members[cluster].push(point);
    }
    members.retain(|cluster| !cluster.is_empty());
    members
}

/// A join of two clusters, each named by one of its points.
struct Join {
    a: usize,
    b: usize,
    height: f64,
}

/// All n - 1 joins, in the order in which the chain finds them.
fn joins_of_chain(distances: &[f32], n: usize, linkage: Linkage) -> Vec<Join> {
    let mut distances: Vec<f64> = distances.iter().map(|d| f64::from(*d)).collect();
    // Members of the cluster that is kept at each point; 0 once it has joined another.
    let mut sizes = vec![1usize; n];
    let mut chain: Vec<usize> = Vec::with_capacity(n);
    let mut joins = Vec::with_capacity(n.saturating_sub(1));
    while joins.len() + 1 < n {
        if chain.is_empty() {
            chain.extend(sizes.iter().position(|size| *size > 0));
        }
        let (a, b, height) = loop {
            let last = chain[chain.len() - 1];
            let before = chain.len().checked_sub(2).map(|place| chain[place]);
            // Of equal neighbours, the one before in the chain, or the chain would not end.
            let mut nearest = before.map(|before| (distances[last * n + before], before));
            for point in (0..n).filter(|point| *point != last && sizes[*point] > 0) {
                let distance = distances[last * n + point];
                if nearest.is_none_or(|(least, _)| distance < least) {
                    nearest = Some((distance, point));
                }
            }
            let (distance, point) = nearest.expect("at least two clusters are left");
            if Some(point) == before {
                chain.truncate(chain.len() - 2);
                break (last.min(point), last.max(point), distance);
            }
            chain.push(point);
        };
        for point in (0..n).filter(|point| *point != a && *point != b) {
            if sizes[point] > 0 {
                let (to_a, to_b) = (distances[a * n + point], distances[b * n + point]);
                let distance = linkage.to_union((sizes[a], to_a), (sizes[b], to_b));
                distances[b * n + point] = distance;
                distances[point * n + b] = distance;
            }
        }
        sizes[b] += sizes[a];
        sizes[a] = 0;
        joins.push(Join { a, b, height });
    }
    joins
}

/// The first point of the tree that `point` is in; shortens the way to it.
fn root(parents: &mut [usize], mut point: usize) -> usize {
    while parents[point] != point {
        parents[point] = parents[parents[point]];
        point = parents[point];
    }
    point
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: all pairs of clusters are looked at before each join.
    fn slow(distances: &[f32], n: usize, linkage: Linkage, wanted: usize) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = (0..n).map(|point| vec![point]).collect();
        let between = |x: &[usize], y: &[usize]| {
            let pairs = x.iter().flat_map(|a| y.iter().map(move |b| f64::from(distances[a * n + b])));
            match linkage {
                Linkage::Single => pairs.fold(f64::INFINITY, f64::min),
                Linkage::Average => pairs.sum::<f64>() / (x.len() * y.len()) as f64,
                Linkage::Complete => pairs.fold(0.0, f64::max),
            }
        };
        while clusters.len() > wanted.max(1) {
            let mut best = (f64::INFINITY, 0, 0);
            for i in 0..clusters.len() {
                for j in i + 1..clusters.len() {
                    let distance = between(&clusters[i], &clusters[j]);
                    if distance < best.0 {
                        best = (distance, i, j);
                    }
                }
            }
            let joined = clusters.remove(best.2);
            clusters[best.1].extend(joined);
        }
        clusters.iter_mut().for_each(|cluster| cluster.sort_unstable());
        clusters.sort();
        clusters
    }

    proptest! {
        #[test]
        fn the_chain_finds_the_nearest_clusters(
            (n, values) in (1usize..24).prop_flat_map(|n| {
                (Just(n), prop::collection::vec(0.0f32..2.0, n * n))
            }),
            wanted in 0usize..26,
        ) {
            let mut distances = values.clone();
            for i in 0..n {
                for j in 0..n {
                    distances[i * n + j] = if i == j { 0.0 } else { values[i.min(j) * n + i.max(j)] };
                }
            }
            for linkage in [Linkage::Single, Linkage::Average, Linkage::Complete] {
                let found = clusters(&distances, linkage, wanted);
                prop_assert_eq!(found.len(), n.min(wanted.max(1)));
                prop_assert_eq!(found, slow(&distances, n, linkage, wanted), "{:?}", linkage);
            }
        }
    }

    #[test]
    fn equal_distances_end() {
        let all_equal: Vec<f32> = (0..36).map(|i| if i % 7 == 0 { 0.0 } else { 1.0 }).collect();
        for linkage in [Linkage::Single, Linkage::Average, Linkage::Complete] {
            assert_eq!(clusters(&all_equal, linkage, 3).len(), 3, "{linkage:?}");
        }
        assert_eq!(clusters(&[], Linkage::Average, 1), Vec::<Vec<usize>>::new());
    }
}
