"""Mining and cleaning of positive pairs, as SQL text.

The statements are plain SQL (CTEs, joins, window functions, MD5, GREATEST): the same text runs on every engine of
`engines.py`, and a test holds DuckDB and Spark to the same pairs, weights and queries.
They read the views `items`, `images`, `users`, `events` with times as integer microseconds, `categories`, and, for
pairs, `pictures` (see `splits.py`). `$name` stands for a number. A split is a number in SQL: 0 train, 1 validation,
2 test. Whatever picks "the first" orders by (ts, event_id): ties cannot differ.

Pairs are made of numbers, which engines join and group several times faster than text: a picture's and an item's
stand in the order of their ids, a kind's is its place in `KINDS`.
"""

from __future__ import annotations

SPLIT_OF = "CASE WHEN {ts} < $train_end THEN 0 WHEN {ts} < $validation_end THEN 1 ELSE 2 END"
VIEW_ORDER = "CASE view WHEN 'main' THEN 0 WHEN 'sku' THEN 1 WHEN 'user_photo' THEN 2 ELSE 3 END"

OFFENDERS = """
CREATE TABLE offenders AS
WITH busy AS (
  SELECT DISTINCT user_id FROM (
    SELECT user_id FROM events WHERE event_type = 'click'
    GROUP BY user_id, FLOOR(ts / 60000000) HAVING 2 * COUNT(*) > $max_clicks) minutes
), clicks AS (
  SELECT user_id, ts, LAG(ts, $max_clicks) OVER (PARTITION BY user_id ORDER BY ts) AS earlier
  FROM events WHERE event_type = 'click' AND user_id IN (SELECT user_id FROM busy)
), offences AS (
  SELECT user_id, ts FROM clicks WHERE ts - earlier < 60000000
  UNION ALL
  SELECT e.user_id, e.ts FROM events e JOIN users u ON e.user_id = u.user_id WHERE e.ts < u.created_at
)
SELECT user_id, MIN(ts) AS since FROM offences GROUP BY user_id
"""
"""Users too fast for a person (more than $max_clicks clicks within a minute) or active before the account was made, and
since when. Who is too fast has half of these clicks in one minute of the clock: only their clicks are sorted."""

LOG = f"""
CREATE TEMPORARY VIEW log AS
WITH split_events AS (
  SELECT e.*, {SPLIT_OF.format(ts="e.ts")} AS split FROM events e
)
SELECT e.*,
  o.since IS NULL OR o.since >= CASE e.split WHEN 0 THEN $train_end WHEN 1 THEN $validation_end ELSE $as_of + 1 END
    AS honest
FROM split_events e LEFT JOIN offenders o ON e.user_id = o.user_id
"""
"""Every event with its split and whether its user is honest as far as was known by the end of the event's split (a bot
of the test days was a shopper before). A view: the log outgrows memory first, and is read where it lies, by column."""

SEARCHES = """
CREATE TABLE searches AS
SELECT query_id, user_id, query_image_id AS image_id, ts, split FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY query_id ORDER BY ts, event_id) AS n
  FROM log WHERE query_id IS NOT NULL AND query_image_id IS NOT NULL AND honest) numbered
WHERE n = 1
"""
"""One row a search by photo: its first event says who, when and with which picture."""

OUTCOMES = """
CREATE TABLE outcomes AS
SELECT query_id, event_type, item_id, position, ts, event_id FROM (
  SELECT e.*, ROW_NUMBER() OVER (
    PARTITION BY e.query_id, e.event_type, e.item_id ORDER BY e.ts, e.event_id) AS n
  FROM log e JOIN searches s ON e.query_id = s.query_id
  WHERE e.honest AND e.split = s.split) numbered
WHERE n = 1
"""
"""What came of each search, an item once a kind of event; what happened after the end of its split does not count."""

QUERIES = """
CREATE TABLE query_rows AS
WITH first_click AS (
  SELECT query_id, item_id FROM (
    SELECT query_id, item_id, ROW_NUMBER() OVER (PARTITION BY query_id ORDER BY ts, event_id) AS n
    FROM outcomes WHERE event_type = 'click') numbered
  WHERE n = 1
), known_users AS (
  SELECT DISTINCT user_id FROM log WHERE split = 0
)
SELECT s.query_id, s.user_id, s.image_id, s.ts, s.split, p.item_id AS photographed_item,
  COALESCE(i.created_at >= $train_end, FALSE) AS cold_item,
  k.user_id IS NULL AS cold_user,
  COALESCE(c.item_id <> p.item_id, FALSE) AS personal
FROM searches s
JOIN pictures p ON s.image_id = p.image_id
LEFT JOIN first_click c ON s.query_id = c.query_id
LEFT JOIN items i ON i.item_id = COALESCE(p.item_id, c.item_id)
LEFT JOIN known_users k ON s.user_id = k.user_id
WHERE p.split <= s.split
"""
"""The queries, without those whose picture (or a near copy of it) is a query of a later split."""

KINDS = ("co_click", "query_cart", "query_click", "query_order", "same_item")
CO_CLICKED, QUERY_CART, QUERY_CLICK, QUERY_ORDER, SAME = range(len(KINDS))

NUMBERED_ITEMS = """
CREATE TABLE numbered_items AS
SELECT i.item_id, i.created_at, c.category_id AS leaf, c.parent_id AS parent,
  CAST(ROW_NUMBER() OVER (ORDER BY i.item_id) - 1 AS INT) AS item
FROM items i LEFT JOIN categories c ON i.category_id = c.category_id
"""
"""The items by number, with what the rules ask of them."""

ACTS = """
CREATE TABLE acts AS
SELECT p.picture, i.item, e.ts, e.honest,
  CAST(CASE e.event_type WHEN 'order' THEN 3 WHEN 'cart' THEN 2 ELSE 1 END AS INT) AS strength,
  hash64(COALESCE(e.query_id, CONCAT(e.user_id, '/', CAST(FLOOR(e.ts / 86400000000) AS BIGINT)))) AS visit
FROM log e
JOIN numbered_items i ON e.item_id = i.item_id
LEFT JOIN pictures p ON e.query_image_id = p.image_id
WHERE e.split = 0 AND e.event_type <> 'impression'
"""
"""Clicks, carts and orders of the training days: with which picture, of which item, in which visit. A visit is a
search, or outside search what one user does on one day."""

SAME_ITEM = f"""
WITH views AS (
  SELECT picture, item FROM (
    SELECT picture, item, ROW_NUMBER() OVER (
      PARTITION BY item ORDER BY {VIEW_ORDER}, MD5(CONCAT(image_id, '|$seed')), picture) AS n
    FROM pictures WHERE item IS NOT NULL AND seen < $train_end) numbered
  WHERE n <= $max_views
)
SELECT a.picture AS a, b.picture AS b, {SAME} AS kind, CAST($same_item_weight AS DOUBLE) AS weight, TRUE AS honest
FROM views a JOIN views b ON a.item = b.item AND a.picture < b.picture
"""
"""Two views of one item. Of items with very many pictures, $max_views (catalogue first) keep the join bounded."""

QUERY_ITEM = f"""
WITH strongest AS (
  SELECT picture, item, MAX(strength + CASE WHEN honest THEN 4 ELSE 0 END) AS best
  FROM acts WHERE picture IS NOT NULL GROUP BY picture, item
)
SELECT s.picture AS a, v.picture AS b,
  CASE s.best % 4 WHEN 3 THEN {QUERY_ORDER} WHEN 2 THEN {QUERY_CART} ELSE {QUERY_CLICK} END AS kind,
  CAST(CASE s.best % 4 WHEN 3 THEN $order_weight WHEN 2 THEN $cart_weight ELSE $click_weight END AS DOUBLE)
    * CASE v.view WHEN 'main' THEN 1.0 ELSE 0.5 END AS weight,
  s.best > 4 AS honest
FROM strongest s
JOIN pictures v ON s.item = v.item AND v.catalogue AND v.seen < $train_end
WHERE s.picture <> v.picture
"""
"""The photo searched with and each catalogue view of an item clicked, put in the cart or ordered, once, under the
strongest of the three. Views other than the main one weigh half: the click was on the main picture."""

CO_CLICK = f"""
WITH clicks AS (
  SELECT visit, item, honest, MIN(ts) AS ts FROM acts WHERE strength = 1 GROUP BY visit, item, honest
), numbered AS (
  SELECT visit, item, honest,
    ROW_NUMBER() OVER (PARTITION BY visit, honest ORDER BY ts, item) AS n,
    COUNT(*) OVER (
      PARTITION BY visit, honest ORDER BY ts, item ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS size
  FROM clicks
), visits AS (
  SELECT visit, item, honest, LEAST(size, $max_views) AS size FROM numbered WHERE n <= $max_views
), popularity AS (
  SELECT item, COUNT(*) AS visits FROM visits WHERE honest GROUP BY item
), together AS (
  SELECT a.item AS item_a, b.item AS item_b,
    SUM(CASE WHEN a.honest THEN CAST(FLOOR(1000000 / (a.size - 1)) AS BIGINT) ELSE 0 END) AS millionths
  FROM visits a JOIN visits b ON a.visit = b.visit AND a.honest = b.honest AND a.item < b.item
  GROUP BY a.item, b.item
), faces AS (
  SELECT item, picture FROM (
    SELECT item, picture, ROW_NUMBER() OVER (PARTITION BY item ORDER BY {VIEW_ORDER}, picture) AS n
    FROM pictures WHERE catalogue AND item IS NOT NULL AND seen < $train_end) ordered
  WHERE n = 1
)
SELECT fa.picture AS a, fb.picture AS b, {CO_CLICKED} AS kind,
  COALESCE(CAST($co_click_weight AS DOUBLE) * t.millionths / 1000000 / SQRT(pa.visits * pb.visits), 0.0) AS weight,
  t.millionths > 0 AS honest
FROM together t
JOIN faces fa ON t.item_a = fa.item
JOIN faces fb ON t.item_b = fb.item
LEFT JOIN popularity pa ON t.item_a = pa.item
LEFT JOIN popularity pb ON t.item_b = pb.item
"""
"""ItemCF: items clicked in one visit, by the cosine of their visits; a visit of n items counts 1/(n-1). Sums are of
integers, so that the order of adding cannot change a bit."""

CATEGORY_AGREEMENT = """
SELECT p.* FROM $source p
JOIN pictures a ON p.a = a.picture
JOIN pictures b ON p.b = b.picture
LEFT JOIN numbered_items i ON a.item = i.item
LEFT JOIN numbered_items j ON b.item = j.item
WHERE a.item IS NULL OR i.leaf = j.leaf OR i.parent = j.parent
"""
"""Both items in one leaf, or in leaves of one parent; a photo of something unknown cannot disagree."""

NEAR_DUPLICATE = """
WITH collapsed AS (
  SELECT a.representative AS a, p.b, p.kind, p.weight, p.honest, p.a AS original
  FROM $source p
  JOIN pictures a ON p.a = a.picture
  JOIN pictures b ON p.b = b.picture
  WHERE b.representative = p.b AND a.representative <> p.b
), numbered AS (
  SELECT *, ROW_NUMBER() OVER (
    PARTITION BY kind, LEAST(a, b), GREATEST(a, b)
    ORDER BY honest DESC, weight DESC, CASE WHEN original = a THEN 0 ELSE 1 END, original) AS n
  FROM collapsed
)
SELECT a, b, kind, weight, honest FROM numbered WHERE n = 1
"""
"""Near copies of one picture count as that picture: a pair of copies goes, and so does all but one of equal pairs."""

HONEST_USER = "SELECT p.* FROM $source p WHERE p.honest"
"""Pairs that rest on bots or impossible users alone go."""

KNOWN_ITEM = """
SELECT p.* FROM $source p
JOIN pictures a ON p.a = a.picture
JOIN pictures b ON p.b = b.picture
LEFT JOIN numbered_items i ON a.item = i.item
JOIN numbered_items j ON b.item = j.item
WHERE (a.item IS NULL OR i.created_at < $train_end) AND j.created_at < $train_end
"""
"""Items created at or after the end of training are held out."""

TRAINING_PICTURE = """
SELECT p.* FROM $source p
JOIN pictures a ON p.a = a.picture
JOIN pictures b ON p.b = b.picture
WHERE a.split = 0 AND b.split = 0
"""
"""Pictures of held-out queries, and near copies of them, are held out."""

LIMIT = f"""
WITH co_clicked AS (
  SELECT p.a, p.b, p.weight, a.item AS item_a, b.item AS item_b
  FROM $source p
  JOIN pictures a ON p.a = a.picture
  JOIN pictures b ON p.b = b.picture
  WHERE p.kind = {CO_CLICKED}
), ends AS (
  SELECT a, b, weight, item_a AS item, item_b AS other FROM co_clicked
  UNION ALL
  SELECT a, b, weight, item_b, item_a FROM co_clicked
), strongest AS (
  SELECT a, b FROM (
    SELECT a, b, ROW_NUMBER() OVER (PARTITION BY item ORDER BY weight DESC, other) AS n FROM ends) ranked
  WHERE n <= $max_co_click GROUP BY a, b HAVING COUNT(*) = 2
), numbered AS (
  SELECT p.*, ROW_NUMBER() OVER (
    PARTITION BY b.item ORDER BY
      CASE WHEN (a.view IN ('main', 'sku')) <> (b.view IN ('main', 'sku')) THEN 0 ELSE 1 END,
      MD5(CONCAT(a.image_id, '|', b.image_id, '|$seed')), p.a, p.b) AS n
  FROM $source p
  JOIN pictures a ON p.a = a.picture
  JOIN pictures b ON p.b = b.picture
  WHERE p.kind = {SAME}
)
SELECT a, b, kind, weight, honest FROM numbered WHERE n <= $max_same_item
UNION ALL
SELECT p.a, p.b, p.kind, p.weight, p.honest FROM $source p
JOIN strongest s ON p.a = s.a AND p.b = s.b WHERE p.kind = {CO_CLICKED}
UNION ALL
SELECT a, b, kind, weight, honest FROM $source WHERE kind NOT IN ({CO_CLICKED}, {SAME})
"""
"""At most so many pairs an item: the strongest co-clicks at both ends; of views those across shop and shopper first."""

SOURCES = (SAME_ITEM, QUERY_ITEM, CO_CLICK)

RULES = {
    "category": CATEGORY_AGREEMENT,
    "near_duplicate": NEAR_DUPLICATE,
    "bot": HONEST_USER,
    "new_item": KNOWN_ITEM,
    "held_out_picture": TRAINING_PICTURE,
    "limit": LIMIT,
}
"""Cleaning rules in the order in which they are applied; each reads `$source` and keeps a part of its rows."""
