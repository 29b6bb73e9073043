-- One city database with its orders, for sqlcmd: fill.sh sets CITY, SEED and ORDERS and runs this once for each city.
-- Run again it changes nothing. The text is ASCII on purpose: what sqlcmd takes other bytes for depends on its
-- version and locale. SEED is below 1000000, so that nothing here passes the end of int.
IF DB_ID(N'$(CITY)') IS NULL CREATE DATABASE [$(CITY)];
GO
ALTER DATABASE [$(CITY)] SET ALLOW_SNAPSHOT_ISOLATION ON;
GO
USE [$(CITY)];
GO
IF OBJECT_ID(N'dbo.Orders') IS NULL CREATE TABLE dbo.Orders (
    id           bigint NOT NULL PRIMARY KEY,
    start_time   datetime2(3) NOT NULL,
    end_time     datetime2(3) NULL,
    client_name  nvarchar(100) NOT NULL,
    driver_id    int NULL,
    distance_km  float NULL,
    price        decimal(12, 2) NULL,
    status       varchar(20) NOT NULL,
    paid_in_cash bit NOT NULL,
    comment      nvarchar(200) NULL
);
GO
-- One statement, so that a city is empty or whole: thirty days from 2020-06-25 (2592000 seconds), every tenth order
-- cancelled (no end, no driver, no price), every twentieth of the others still on its way.
INSERT INTO dbo.Orders
    (id, start_time, end_time, client_name, driver_id, distance_km, price, status, paid_in_cash, comment)
SELECT
    o.id,
    o.start_time,
    CASE WHEN o.status = 'done' THEN DATEADD(second, 300 + o.id * 37 % 3000, o.start_time) END,
    o.client_name,
    CASE WHEN o.status <> 'cancelled' THEN 1 + o.id * 31 % 200 END,
    CASE WHEN o.status <> 'cancelled' THEN CAST(o.id * 13 % 300 AS float) / 8 END,
    CASE WHEN o.status <> 'cancelled' THEN CAST((9900 + (o.id * 7919 + $(SEED)) % 90000) * 0.01 AS decimal(12, 2)) END,
    o.status,
    CAST(CASE WHEN o.id % 3 = 0 THEN 1 ELSE 0 END AS bit),
    o.comment
FROM (
    SELECT
        s.value AS id,
        DATEADD(second, (s.value * 104729 + $(SEED)) % 2592000, CAST('2020-06-25T00:00:00' AS datetime2(3)))
            AS start_time,
        CASE WHEN s.value % 10 = 7 THEN 'cancelled' WHEN s.value % 20 = 11 THEN 'on the way' ELSE 'done' END
            AS status,
        CASE s.value % 4
            WHEN 0 THEN CONCAT(NCHAR(1040), NCHAR(1085), NCHAR(1085), NCHAR(1072), N' ', s.value)
            WHEN 1 THEN CONCAT(NCHAR(1048), NCHAR(1074), NCHAR(1072), NCHAR(1085), N' ', s.value)
            WHEN 2 THEN CONCAT(NCHAR(1051), NCHAR(1102), NCHAR(1073), NCHAR(1072), N' O''Hara ', s.value)
            ELSE CONCAT(N'Yulia "Yu" ', s.value)
        END AS client_name,
        CASE s.value % 8
            WHEN 1 THEN N''
            WHEN 3 THEN N'back door | 3rd floor, c:\gate\n'
            WHEN 5 THEN CONCAT(NCHAR(8470), s.value, NCHAR(10), N'call first')
        END AS comment
    FROM GENERATE_SERIES(1, $(ORDERS)) AS s
) AS o
WHERE NOT EXISTS (SELECT 1 FROM dbo.Orders);
GO
