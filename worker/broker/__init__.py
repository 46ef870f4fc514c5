"""RabbitMQ: takes deliveries, publishes results, parks what must wait. The only folder that knows aio-pika."""
