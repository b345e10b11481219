//! Methods at the same cost, or at the same loss of accuracy.
//!
//! Between two measured settings lies every mixture of them: some images run with one setting, the rest with the
//! other. Every point on the straight line between two points can therefore be reached. A method's front is the lower
//! convex hull of its settings and the dense model, which is a setting of every method.

use super::outcome::Mean;

/// The settings of `points` on the lower convex hull of D over cost, from the costliest to the cheapest. The dense
/// model, cost 1 and D 0, is on every hull and is not among them.
pub fn hull(points: &[Mean]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| points[i].cost < 1.0).collect();
    order.sort_by(|&a, &b| {
        let by_cost = points[b].cost.total_cmp(&points[a].cost);
        by_cost.then(points[a].divergence.total_cmp(&points[b].divergence))
    });
    let dense = (1.0, 0.0);
    let place = |i: usize| (points[i].cost, points[i].divergence);
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|&last| points[last].cost <= points[i].cost) {
            continue;
        }
        while let Some(&last) = hull.last() {
            let before = hull.len().checked_sub(2).map_or(dense, |at| place(hull[at]));
            // The last point stays on the hull if the slope to it is smaller than the slope past it.
            let slope = |(c, d): (f64, f64)| (d - before.1) / (before.0 - c);
            if slope(place(last)) < slope(place(i)) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// The mixture of neighbours on `front` (from the costliest to the cheapest) whose cost is `cost`; `None` if no
/// setting is that cheap. `front[0]` is the dense model.
pub fn at_cost(front: &[Mean], cost: f64) -> Option<Mean> {
    crossing(front, |mean| mean.cost - cost)
}

/// The first mixture, starting from the dense model, whose top-1 has fallen by `loss` pp; the cheapest point if there
/// is none.
pub fn at_loss(front: &[Mean], loss: f64) -> Mean {
    let allowed = front[0].top1 - loss;
    crossing(front, |mean| mean.top1 - allowed).unwrap_or(front[front.len() - 1])
}

/// Indices on `hull` (from the costliest to the cheapest) of the `each` settings on either side of each of `costs`,
/// and of the points where top-1 has fallen from `dense` by each of `losses`, in order.
pub fn near(hull: &[Mean], dense: f64, costs: &[f64], losses: &[f64], each: usize) -> Vec<usize> {
    let past = |beyond: &dyn Fn(&Mean) -> bool| hull.iter().position(beyond).unwrap_or(hull.len());
    let by_cost = costs.iter().map(|&cost| past(&|mean| mean.cost <= cost));
    let by_loss = losses.iter().map(|&loss| past(&|mean| mean.top1 <= dense - loss));
    let crossings: Vec<usize> = by_cost.chain(by_loss).collect();
    let is_near = |place: &usize| crossings.iter().any(|&at| at <= place + each && *place < at + each);
    (0..hull.len()).filter(is_near).collect()
}

/// The mixture at which `height` falls to 0 along `front`.
fn crossing(front: &[Mean], height: impl Fn(&Mean) -> f64) -> Option<Mean> {
    if front.first().is_some_and(|first| height(first) <= 0.0) {
        return front.first().copied();
    }
    front.windows(2).find(|pair| height(&pair[1]) <= 0.0).map(|pair| {
        let (above, below) = (height(&pair[0]), height(&pair[1]));
        pair[0].mixed(pair[1], above / (above - below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(cost: f64, divergence: f64) -> Mean {
        Mean { cost, divergence, top1: 90.0 - 10.0 * divergence }
    }

    #[test]
    fn the_hull_leaves_out_what_a_mixture_beats() {
        // (0.8, 0.1) lies above the line from dense to (0.6, 0.1); (0.5, 0.4) on the hull; (1.2, 0) costs more than dense.
        let points = [mean(0.8, 0.1), mean(0.6, 0.1), mean(1.2, 0.0), mean(0.5, 0.4), mean(0.55, 0.9)];
        assert_eq!(hull(&points), [1, 3]);
        assert_eq!(hull(&[mean(0.9, 0.01), mean(0.8, 0.03)]), [0, 1]);
        assert_eq!(hull(&[mean(0.9, 0.5), mean(0.9, 0.2)]), [1], "at one cost, the lower D");
        assert_eq!(hull(&[]), Vec::<usize>::new());
    }

    #[test]
    fn settings_on_either_side_are_near() {
        let hull = [mean(0.9, 0.01), mean(0.8, 0.03), mean(0.7, 0.06), mean(0.6, 0.1), mean(0.5, 0.2)];
        assert_eq!(near(&hull, 90.0, &[0.75], &[], 1), [1, 2]);
        assert_eq!(near(&hull, 90.0, &[], &[0.5], 2), [0, 1, 2, 3], "a drop of 0.5 lies between 0.3 and 0.6");
        assert_eq!(near(&hull, 90.0, &[0.95, 0.1], &[], 1), [0, 4], "beyond either end, what is next to it");
        assert_eq!(near(&hull, 90.0, &[0.6], &[1.0], 1), [2, 3], "what two ask for is there once");
        assert_eq!(near(&[], 90.0, &[0.6], &[1.0], 3), Vec::<usize>::new());
    }

    #[test]
    fn mixtures_reach_every_cost_between() {
        let front = [mean(1.0, 0.0), mean(0.8, 0.1), mean(0.6, 0.5)];
        assert!((at_cost(&front, 0.7).unwrap().divergence - 0.3).abs() < 1e-12);
        assert!((at_cost(&front, 0.95).unwrap().divergence - 0.025).abs() < 1e-12);
        assert!(at_cost(&front, 0.5).is_none());
        assert!((at_loss(&front, 1.0).cost - 0.8).abs() < 1e-12);
        assert!((at_loss(&front, 3.0).cost - 0.7).abs() < 1e-12);
        assert_eq!(at_loss(&front, 50.0).cost, 0.6);
        assert_eq!(at_loss(&front, 0.0).cost, 1.0);
    }
}
